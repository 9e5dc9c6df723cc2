/** Draws the timeline: bars, the names above them, the seconds below; `from` and `to` in seconds. */

import { COLOURS } from "./palette.js";
import { clock } from "./words.js";

const TICKS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
const TICK_PX = 72;
const NAMED_PX = 44;

/** A spot of a label's colour. */
export function swatch() {
  const spot = document.createElement("i");
  spot.className = "swatch";
  return spot;
}

/** A bar for each window, as high as its best score. */
export function drawBars(canvas, windows, palette, from, to) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = Math.round(width * devicePixelRatio);
  canvas.height = Math.round(height * devicePixelRatio);
  const pen = canvas.getContext("2d");
  pen.scale(devicePixelRatio, devicePixelRatio);
  const colours = coloursOf(canvas);
  const scale = width / (to - from);
  for (const { start, end, labels, scores } of windows) {
    if (end < from) continue;
    const wide = (end - start) * scale;
    const gap = wide > 4 ? 1 : 0;
    const high = Math.max(2, scores[0] * (height - 2));
    pen.fillStyle = colours[palette.colourOf(labels[0])];
    pen.fillRect((start - from) * scale, height - high, Math.max(0.75, wide - gap), high);
  }
}

/** The names of the stretches that are wide enough for one. */
export function drawRuns(row, runs, palette, from, to) {
  const percent = (seconds) => `${(seconds / (to - from)) * 100}%`;
  const pixels = row.clientWidth / (to - from);
  const names = [];
  for (const { label, start, end } of runs) {
    const left = Math.max(start, from);
    if ((end - left) * pixels < NAMED_PX) continue;
    const name = document.createElement("span");
    name.textContent = label;
    name.title = label;
    name.dataset.colour = palette.colourOf(label);
    name.style.setProperty("left", percent(left - from));
    name.style.setProperty("width", percent(end - left));
    names.push(name);
  }
  row.replaceChildren(...names);
}

/** Ticks of round seconds. */
export function drawAxis(axis, from, to) {
  const pixels = axis.clientWidth / (to - from);
  const step = TICKS.find((tick) => tick * pixels >= TICK_PX) ?? Math.ceil(TICK_PX / pixels);
  const ticks = [];
  for (let at = Math.ceil(from / step) * step; at <= to + 1e-6; at += step) {
    const tick = document.createElement("span");
    // At the right end there is no room for the words.
    const isNamed = (to - at) * pixels > TICK_PX / 2;
    if (isNamed) tick.textContent = step < 1 ? clock(at) : clock(at).replace(/\.0$/, "");
    tick.style.setProperty("left", `${(at - from) * pixels}px`);
    ticks.push(tick);
  }
  axis.replaceChildren(...ticks);
}

function coloursOf(element) {
  const style = getComputedStyle(element);
  const colours = { rest: style.getPropertyValue("--label-rest").trim() };
  for (let colour = 1; colour <= COLOURS; colour++) {
    colours[colour] = style.getPropertyValue(`--label-${colour}`).trim();
  }
  return colours;
}
