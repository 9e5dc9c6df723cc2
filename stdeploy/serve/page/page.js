/** Puts the page together: one video, or the camera, at a time. */

import {
  markSegments,
  showBy,
  showCaption,
  showPredictions,
  showScope,
  showSegments,
  showTimings,
} from "./answer.js";
import { classifyVideo, isReachable } from "./api.js";
import { Camera } from "./camera.js";
import { curlCommand } from "./curl.js";
import { watchDrops } from "./drop.js";
import { askForKey, forgetKey, showForget } from "./key.js";
import { showModel } from "./model.js";
import { Palette } from "./palette.js";
import { Player } from "./player.js";
import { State } from "./state.js";
import { Timeline } from "./timeline.js";
import { clock, counted, size } from "./words.js";

const WAITING = "The server decodes and classifies the video.";
const COMING = "The answers over time come in.";

const byId = (id) => document.getElementById(id);

let palette = new Palette();
let file = null;
let job = null;
let flaws = { damaged_after_seconds: null, notes: [] };
let needsKey = false;

const state = new State({ again, cancel: () => job?.cancel() });
const timeline = new Timeline(byId("timeline"), palette, {
  seek: (seconds) => player.seek(seconds),
  toggle: () => player.toggle(),
});
const player = new Player({
  move: showMoment,
  length: (seconds) => {
    timeline.durationSeconds = seconds;
  },
});
const camera = new Camera(
  { open: cameraOpened, answer: cameraAnswered, trouble: cameraTroubled, stop: cameraStopped },
  // More views of so short a clip would see the same frames, and make the answers late.
  () => ({ views: byId("views").value || "1" }),
);

function options() {
  return { hop: byId("hop").value, views: byId("views").value };
}

function showMoment(seconds, isSpoken) {
  timeline.moveTo(seconds, { isSpoken });
  showCaption(timeline.windowAt(seconds), palette);
  markSegments(seconds);
}

function clear({ isLive = false } = {}) {
  job?.cancel();
  job = null;
  palette = new Palette();
  timeline.reset(palette, { isLive });
  showPredictions(null, palette);
  showBy(null);
  showScope(null);
  showTimings(null);
  showSegments(null, [], palette);
  byId("answer-title").textContent = isLive ? "Last clip" : "Whole video";
  byId("line-title").textContent = isLive ? "Last minute" : "Timeline";
  for (const id of ["segments-section", "keys", "scope"]) byId(id).hidden = isLive;
  showCaption(null, palette);
}

function take(chosen) {
  camera.stop();
  file = chosen;
  player.open(file);
  showCurl();
  classify();
}

async function again() {
  if (needsKey && !(await askForKey())) return;
  if (needsKey) showModel(askForKey);
  needsKey = false;
  classify();
}

async function classify() {
  clear();
  if (player.isPlayable) timeline.durationSeconds = player.durationSeconds;
  const sending = `Sending ${file.name}.`;
  state.busy(sending, { detail: size(file.size), share: 0 });
  const began = performance.now();
  const call = classifyVideo(file, options(), {
    sent: (share) => {
      state.busy(sending, { detail: `${Math.floor(share * 100)} % of ${size(file.size)}`, share });
    },
    waiting: () => state.busy(WAITING),
    event: (name, data) => {
      if (name === "prediction") predicted(data);
      if (name === "window") windowCame(data);
      if (name === "end") ended(data);
    },
  });
  job = call;
  try {
    await call.done;
  } catch (error) {
    // A newer video may have taken over.
    if (job === call) failed(error);
    return;
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  const detail = `${counted(timeline.windows.length, "answer")} over time, in ${seconds} s.`;
  let said = `Done: ${byId("verdict").textContent}.`;
  const { damaged_after_seconds: end, lost_frames: lost } = flaws;
  if (end !== null) said += ` The file breaks off after ${clock(end)}: the answer is about that part.`;
  else if (lost) said += ` ${counted(lost, "frame")} of the file cannot be decoded.`;
  if (flaws.times_estimated) said += " Its frames lack timestamps: times are estimated.";
  for (const note of flaws.notes) said += ` Note: ${note}.`;
  state.idle(said, { detail, again: "Classify again" });
}

function predicted(answer) {
  showAnswer(answer);
  showScope(answer.views);
  state.busy(COMING);
}

function showAnswer({ predictions, timings_ms: timings, ...by }) {
  // Next to nothing beside the seconds that a label is on top, but enough where there is room.
  for (const { label, score } of predictions) palette.add(label, score * 1e-3);
  showPredictions(predictions, palette);
  showBy(by);
  showTimings(timings);
}

function windowCame(window) {
  const isFirst = timeline.windows.length === 0;
  palette.add(window.labels[0], window.end - window.start);
  timeline.add(window);
  showCaption(timeline.windowAt(player.positionSeconds), palette);
  const all = timeline.durationSeconds;
  const isKnown = all > window.end;
  const detail = isKnown
    ? `${clock(window.end)} of ${clock(all)}`
    : `As far as ${clock(window.end)}`;
  state.busy(COMING, { detail, share: isKnown ? window.end / all : null });
  if (isFirst) player.start();
}

function ended({ duration_seconds: seconds, segments, timings_ms: timings, ...end }) {
  flaws = end;
  timeline.durationSeconds = seconds;
  player.durationSeconds = seconds;
  showTimings(timings);
  showSegments(segments, timeline.runs, palette, (start) => player.seek(start));
  showMoment(player.positionSeconds, true);
}

async function failed(fault) {
  if (fault.name === "AbortError") {
    state.idle("Cancelled.", { again: "Classify again" });
    return;
  }
  if (fault.status === 401) {
    needsKey = true;
    state.wrong("The server wants an API key.", fault, { again: "Enter the key" });
    again();
    return;
  }
  const call = job;
  const large = `This file has ${size(file.size)}`;
  let words = fault.message;
  if (fault.status === 413) words += ` ${large}.`;
  // A server that refuses a body may close the connection before its answer can be read.
  if (fault.isCutOff && (await isReachable())) {
    words = `The server closed the connection before it had answered. ${large}; it may be more than the server takes.`;
  }
  if (job === call) state.wrong(words, fault, { again: "Try again" });
}

function toggleCamera() {
  if (camera.isOn) {
    camera.stop();
    return;
  }
  file = null;
  clear({ isLive: true });
  player.close();
  showCurl();
  showCameraButton(true);
  state.idle("Waiting for the camera.");
  camera.start();
}

function showCameraButton(isOn) {
  byId("camera").textContent = isOn ? "Stop the camera" : "Use the camera";
}

function cameraOpened(stream) {
  player.openStream(stream);
  state.idle("The camera is on. The first answer comes after a clip of 3 s.");
}

function cameraAnswered(answer, { startSeconds, endSeconds, behindSeconds }) {
  const { predictions } = answer;
  const window = {
    start: startSeconds,
    end: endSeconds,
    labels: predictions.map(({ label }) => label),
    scores: predictions.map(({ score }) => score),
  };
  palette.add(window.labels[0], endSeconds - startSeconds);
  timeline.add(window);
  showAnswer(answer);
  showCaption(window, palette);
  const detail = `${behindSeconds.toFixed(1)} s behind: from the end of a clip of 3 s to its answer.`;
  state.idle(`Live: ${window.labels[0]}.`, { detail });
}

function cameraTroubled(fault) {
  const when = fault.retrySeconds ? `in ${Math.ceil(fault.retrySeconds)} s` : "soon";
  state.wrong(`${fault.message} The camera goes on; the next clip is sent ${when}.`, fault);
}

async function cameraStopped(fault) {
  showCameraButton(false);
  player.close();
  showCaption(null, palette);
  if (!fault) {
    state.idle("The camera is off.");
    return;
  }
  state.wrong(fault.message, fault);
  if (fault.status === 401 && (await askForKey())) {
    showModel(askForKey);
    toggleCamera();
  }
}

function showCurl() {
  byId("curl").textContent = curlCommand(file, options());
}

async function copyCurl() {
  const button = byId("copy");
  await navigator.clipboard.writeText(byId("curl").textContent);
  button.textContent = "Copied";
  setTimeout(() => {
    button.textContent = "Copy";
  }, 2000);
}

for (const id of ["choose", "invite"])
  byId(id).addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", () => {
  const [chosen] = byId("file").files;
  if (chosen) take(chosen);
  // So that the same file can be chosen again.
  byId("file").value = "";
});
byId("camera").addEventListener("click", toggleCamera);
for (const id of ["hop", "views"]) byId(id).addEventListener("change", showCurl);
// Browsers give the clipboard to secure pages only.
byId("copy").hidden = !navigator.clipboard;
byId("copy").addEventListener("click", copyCurl);
byId("forget").addEventListener("click", () => {
  forgetKey();
  showCurl();
});
watchDrops(byId("drop"), { take, refuse: (words) => state.wrong(words, {}) });

clear();
showForget();
showCurl();
showModel(askForKey);
