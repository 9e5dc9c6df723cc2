/** Which model answers: asked for on load, and again until there is an answer. */

import { showPlaces } from "./answer.js";
import { fetchModel } from "./api.js";
import { counted } from "./words.js";

const AGAIN_SECONDS = 5;

const byId = (id) => document.getElementById(id);

let isAsking = false;
byId("search").addEventListener("input", search);

/**
 * Ask which model answers and show it; while the server starts or is out of reach, ask on.
 *
 * @param {() => Promise<boolean>} askForKey whether the person gave a key.
 */
export async function showModel(askForKey) {
  if (isAsking) return;
  isAsking = true;
  try {
    await askOn(askForKey);
  } finally {
    isAsking = false;
  }
}

async function askOn(askForKey) {
  for (;;) {
    try {
      show(await fetchModel());
      return;
    } catch (fault) {
      if (fault.status === 401) {
        say("The server wants an API key.", "wrong");
        if (await askForKey()) continue;
        return;
      }
      const pause = Math.min(30, Math.max(1, fault.retrySeconds ?? AGAIN_SECONDS));
      if (fault.code === "starting")
        say("The model is being opened; this page goes on asking.", "wait");
      else say(`${fault.message} This page goes on asking.`, "wrong");
      await new Promise((resolve) => setTimeout(resolve, pause * 1000));
    }
  }
}

function say(words, state) {
  const line = byId("model-line");
  line.dataset.state = state;
  // A live region speaks at every change, so the same words are not written again.
  if (line.textContent !== words) line.textContent = words;
}

function show(model) {
  const { clip, labels } = model;
  say(`${model.name}, ${model.num_classes} classes, ${model.backend} on ${model.device}`, "ready");
  const facts = [
    ["Name", model.name],
    ["Network", model.architecture],
    ["Runs on", `${model.backend} on ${model.device}, ${model.precision}`],
    ["Clip", clipWords(clip)],
    ["SHA-256", model.sha256.slice(0, 12), model.sha256],
  ];
  byId("facts").replaceChildren(
    ...facts.flatMap(([name, value, title]) => {
      const term = document.createElement("dt");
      term.textContent = name;
      const fact = document.createElement("dd");
      fact.textContent = value ?? "";
      if (title) fact.title = title;
      return value ? [term, fact] : [];
    }),
  );
  byId("label-count").textContent = counted(labels.length, "label");
  byId("labels").replaceChildren(
    ...labels.map((label) => {
      const item = document.createElement("li");
      item.textContent = label;
      return item;
    }),
  );
  search();
  showPlaces(labels.length);
}

function clipWords(clip) {
  if (!clip?.num_frames || !clip.fps) return null;
  const seconds = ((clip.num_frames - 1) * (clip.frame_stride ?? 1)) / clip.fps;
  const picture = clip.crop_px ? `, ${clip.crop_px} x ${clip.crop_px} px` : "";
  return `${clip.num_frames} frames in ${seconds.toFixed(2)} s${picture}`;
}

function search() {
  const wanted = byId("search").value.trim().toLowerCase();
  let found = 0;
  const items = byId("labels").children;
  for (const item of items) {
    const isFound = item.textContent.toLowerCase().includes(wanted);
    item.hidden = !isFound;
    found += Number(isFound);
  }
  byId("found").textContent = wanted ? `${found} of ${items.length}` : "";
}
