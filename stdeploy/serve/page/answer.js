/** Shows answers: the labels of the whole video, of one moment, segments, and the time taken. */

import { swatch } from "./strip.js";
import { clock, counted, duration, scored } from "./words.js";

const MOST_BARS = 5;
const MOST_SEGMENTS = 300;
const STAGES = [
  ["upload", "Upload"],
  ["queue", "Queue"],
  ["decode", "Decode"],
  ["infer", "Inference"],
];

const byId = (id) => document.getElementById(id);

function made(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

let numBars = MOST_BARS;

/** Leave places for as many bars as there are classes, five at most. */
export function showPlaces(numClasses) {
  numBars = Math.min(MOST_BARS, numClasses);
  byId("bars").replaceChildren(...[...byId("bars").children].slice(0, numBars));
}

/** The bars of the whole video; without predictions, their empty places. */
export function showPredictions(predictions, palette) {
  const rows = Array.from({ length: predictions?.length ?? numBars }, (_, rank) => {
    const found = predictions?.[rank];
    const label = made("span", "label", found?.label ?? "");
    const bar = made("span", "bar", made("span", "fill"));
    const row = made("li", "", label, made("span", "score", found ? scored(found.score) : ""), bar);
    row.style.setProperty("--share", found?.score ?? 0);
    if (found) row.dataset.colour = palette.colourOf(found.label);
    else row.setAttribute("aria-hidden", "true");
    return row;
  });
  byId("bars").replaceChildren(...rows);
  byId("bars").hidden = false;
  byId("verdict").textContent = predictions?.[0]?.label ?? "No answer yet";
  byId("verdict").dataset.empty = String(!predictions);
}

/** Who answered: the device, the model and the first digits of its SHA-256. */
export function showBy(answer) {
  const line = byId("by");
  if (!answer) {
    line.textContent = "";
    return;
  }
  const digest = made("code", "", answer.model.sha256.slice(0, 12));
  digest.title = `SHA-256 ${answer.model.sha256}`;
  const views = counted(answer.views, "view");
  line.replaceChildren(`${answer.model.name} `, digest, `, ${views}, ${answer.device}`);
}

/** What the answer about a whole video rests on; views is null where none is known yet. */
export function showScope(views) {
  const many = views ? `The mean of ${views} clips` : "The mean of clips";
  const clips = views === 1 ? "One clip, from the middle" : `${many} spread over it`;
  byId("scope").textContent =
    `${clips}. A bar of the timeline is about its own moments, so that the two may differ.`;
}

/**
 * The time that each stage took, as a bar and as a table; without timings, their places.
 *
 * @param {?object} timings in milliseconds.
 */
export function showTimings(timings) {
  const known = STAGES.map(([key, name]) => [key, name, timings?.[key] ?? 0]);
  const sum = known.reduce((total, [, , value]) => total + value, 0);
  const total = timings?.total ?? 0;
  const rows = [...known, ["rest", "Other", Math.max(0, total - sum)]];
  const whole = Math.max(total, sum) || 1;
  byId("stages").replaceChildren(
    ...rows.map(([key, , value]) => {
      const part = made("span", "");
      part.dataset.stage = key;
      part.style.setProperty("flex-grow", timings ? value / whole : 0);
      return part;
    }),
  );
  const cells = [...rows, ["total", "Total", total]].map(([key, name, value]) => {
    const spot = swatch();
    const head = made("th", "", spot, name);
    head.scope = "row";
    const row = made("tr", "", head, made("td", "", timings ? duration(value) : "-"));
    row.dataset.stage = key;
    return row;
  });
  byId("times").replaceChildren(...cells);
}

/**
 * The list of segments; each is a button that seeks.
 *
 * @param {?object[]} segments null: none known yet.
 * @param {object[]} runs shown where there is no segment.
 * @param {import("./palette.js").Palette} palette
 * @param {(seconds: number) => void} onSeek
 */
export function showSegments(segments, runs, palette, onSeek) {
  const isEmpty = segments?.length === 0;
  const all = isEmpty ? runs.map((run) => ({ ...run, mean_score: run.mean })) : (segments ?? []);
  byId("segments-note").textContent = segmentsNote(segments, all.length);
  byId("segments").replaceChildren(
    ...all.slice(0, MOST_SEGMENTS).map((segment) => {
      const span = made("span", "span", `${clock(segment.start)} to ${clock(segment.end)}`);
      const label = made("span", "label", segment.label);
      const score = made("span", "score", scored(segment.mean_score));
      const button = made("button", "", swatch(), span, " ", label, " ", score);
      button.type = "button";
      button.dataset.colour = palette.colourOf(segment.label);
      button.dataset.start = segment.start;
      button.dataset.end = segment.end;
      button.addEventListener("click", () => onSeek(segment.start));
      return made("li", "", button);
    }),
  );
}

function segmentsNote(segments, number) {
  if (!segments)
    return "Stretches in which one label holds come here when the video has been read to its end.";
  const most = number > MOST_SEGMENTS ? ` The first ${MOST_SEGMENTS} are listed.` : "";
  if (segments.length)
    return `${counted(number, "segment")}, with mean scores. A segment goes on through bars of other labels as long as none of them is clear.${most}`;
  if (number)
    return `No label scores high enough to make a segment. The best label of each stretch:${most}`;
  return "The video has no segments.";
}

/** Mark the segments that go on at a moment. */
export function markSegments(seconds) {
  for (const button of byId("segments").querySelectorAll("button")) {
    const isOn = seconds >= Number(button.dataset.start) && seconds < Number(button.dataset.end);
    if (isOn) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

let captioned = null;

/** The top labels of a moment, below the picture; null takes them away. */
export function showCaption(window, palette) {
  if (window === captioned) return;
  captioned = window;
  const caption = byId("caption");
  caption.hidden = !window;
  if (!window) return;
  caption.replaceChildren(
    ...window.labels.slice(0, 3).map((label, rank) => {
      const row = made("li", "", swatch(), made("span", "label", label));
      row.append(made("span", "score", scored(window.scores[rank])));
      row.dataset.colour = palette.colourOf(label);
      return row;
    }),
  );
}
