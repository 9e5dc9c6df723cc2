/** Answers over time: keeps them, and is the slider by which one seeks. */

import { drawAxis, drawBars, drawRuns, swatch } from "./strip.js";
import { clock, scored } from "./words.js";

const LIVE_SECONDS = 60;
const FIRST_SECONDS = 10;

/**
 * @typedef {{start: number, end: number, labels: string[], scores: number[]}} Window in seconds,
 *   best label first.
 */

export class Timeline {
  #root;
  #palette;
  #onSeek;
  #onToggle;
  #windows = [];
  #runs = [];
  #known = null;
  #position = 0;
  #live = false;
  #usable = false;
  #waiting = false;

  /**
   * @param {HTMLElement} root
   * @param {import("./palette.js").Palette} palette
   * @param {{seek: (seconds: number) => void, toggle: () => void}} on
   */
  constructor(root, palette, on) {
    const part = (name) => root.querySelector(name);
    this.#root = root;
    this.#palette = palette;
    this.#onSeek = on.seek;
    this.#onToggle = on.toggle;
    this.track = part(".track");
    this.canvas = part("canvas");
    this.head = part(".head");
    this.runsRow = part(".runs");
    this.axis = part(".axis");
    this.tip = part(".tip");
    new ResizeObserver(() => this.#drawSoon()).observe(this.track);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#drawSoon());
    this.#listen();
    this.#drawSoon();
  }

  /** Empty it; in live mode the last minute is shown and nothing can be sought. */
  reset(palette, { isLive = false } = {}) {
    this.#palette = palette;
    this.#windows = [];
    this.#runs = [];
    this.#known = null;
    this.#position = 0;
    this.#live = isLive;
    this.#usable = false;
    this.tip.hidden = true;
    this.#say();
    this.#drawSoon();
  }

  /** How long the video is, where that is known. */
  set durationSeconds(seconds) {
    this.#known = seconds;
    this.#usable = !this.#live;
    this.#say();
    this.#drawSoon();
  }

  get durationSeconds() {
    return this.#known ?? this.#windows.at(-1)?.end ?? 0;
  }

  get windows() {
    return this.#windows;
  }

  /** Stretches in which one label is the best, in order: {label, start, end, mean}. */
  get runs() {
    return this.#runs.map((run) => ({ ...run, mean: run.weight / (run.end - run.start || 1) }));
  }

  /** Take the next window. */
  add(window) {
    this.#windows.push(window);
    const { start, end, labels, scores } = window;
    const last = this.#runs.at(-1);
    const weight = scores[0] * (end - start);
    if (last && last.label === labels[0] && start - last.end < 0.05) {
      last.end = end;
      last.weight += weight;
    } else {
      this.#runs.push({ label: labels[0], start, end, weight });
    }
    this.#usable = !this.#live;
    this.#drawSoon();
  }

  /** Move the mark; isSpoken also tells it to a screen reader. */
  moveTo(seconds, { isSpoken = true } = {}) {
    this.#position = seconds;
    this.#placeHead();
    if (isSpoken) this.#say();
  }

  /** The window that answers for a moment, or null. */
  windowAt(seconds) {
    const index = this.#indexAt(seconds);
    const found = this.#windows[index];
    const isLast = index === this.#windows.length - 1;
    if (!found) return null;
    // The last moment of a video belongs to its last window.
    return seconds < found.end || (isLast && seconds - found.end < 0.1) ? found : null;
  }

  #indexAt(seconds) {
    let low = 0;
    let high = this.#windows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#windows[middle].start <= seconds + 1e-6) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  // An unknown length grows by doubling, so that cells do not shrink at every window.
  #range() {
    const end = this.#windows.at(-1)?.end ?? 0;
    if (this.#live) return [Math.max(0, end - LIVE_SECONDS), Math.max(LIVE_SECONDS, end)];
    if (this.#known) return [0, this.#known];
    let to = FIRST_SECONDS;
    while (to < end) to *= 2;
    return [0, to];
  }

  #listen() {
    let dragging = false;
    const seconds = (event) => {
      const box = this.track.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      const [from, to] = this.#range();
      return from + share * (to - from);
    };
    this.track.addEventListener("pointerdown", (event) => {
      if (!this.#usable || event.button !== 0) return;
      dragging = true;
      this.track.setPointerCapture(event.pointerId);
      this.#seek(seconds(event));
    });
    this.track.addEventListener("pointermove", (event) => {
      this.#showTip(seconds(event));
      if (dragging) this.#seek(seconds(event));
    });
    for (const name of ["pointerup", "pointercancel"]) {
      this.track.addEventListener(name, () => {
        dragging = false;
      });
    }
    this.track.addEventListener("pointerleave", () => {
      this.tip.hidden = true;
    });
    this.track.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    if (!this.#usable || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === " ") {
      event.preventDefault();
      this.#onToggle();
      return;
    }
    const steps = {
      ArrowRight: 1,
      ArrowUp: 1,
      ArrowLeft: -1,
      ArrowDown: -1,
      PageUp: 10,
      PageDown: -10,
    };
    const ends = { Home: 0, End: this.durationSeconds };
    if (event.key in steps) this.#seek(this.#stepped(steps[event.key]));
    else if (event.key in ends) this.#seek(ends[event.key]);
    else return;
    event.preventDefault();
  }

  #stepped(by) {
    const index = this.#indexAt(this.#position);
    // Back first goes to the start of the window that one is in.
    const inside = by < 0 && this.#position - (this.#windows[index]?.start ?? 0) > 0.05 ? 1 : 0;
    const target = this.#windows[Math.max(0, index + by + inside)];
    if (target) return target.start;
    return by > 0 ? this.durationSeconds : 0;
  }

  #seek(seconds) {
    const to = Math.min(Math.max(0, seconds), this.durationSeconds);
    this.moveTo(to);
    this.#onSeek(to);
  }

  #say() {
    const { track } = this;
    const all = this.durationSeconds;
    const window = this.windowAt(this.#position);
    const best = window ? `, ${window.labels[0]} ${scored(window.scores[0])}` : "";
    const nothing = this.#live ? "live, cannot be moved" : "no video yet";
    track.setAttribute("aria-valuemax", all.toFixed(1));
    track.setAttribute("aria-valuenow", Math.min(all, this.#position).toFixed(1));
    track.setAttribute(
      "aria-valuetext",
      this.#usable ? `${clock(this.#position)} of ${clock(all)}${best}` : nothing,
    );
  }

  #showTip(seconds) {
    const window = this.windowAt(seconds);
    this.tip.hidden = !window;
    if (!window) return;
    const rows = window.labels.slice(0, 3).map((label, rank) => {
      const row = document.createElement("span");
      row.dataset.colour = this.#palette.colourOf(label);
      row.append(swatch(), `${label} ${scored(window.scores[rank])}`);
      return row;
    });
    this.tip.replaceChildren(`${clock(window.start)} to ${clock(window.end)}`, ...rows);
    const [from, to] = this.#range();
    const room = this.track.clientWidth - this.tip.offsetWidth;
    const left =
      ((seconds - from) / (to - from)) * this.track.clientWidth - this.tip.offsetWidth / 2;
    this.tip.style.setProperty("left", `${Math.min(Math.max(0, left), Math.max(0, room))}px`);
  }

  #placeHead() {
    const [from, to] = this.#range();
    this.head.hidden = !this.#usable;
    // A browser's length of a file may be a frame longer than the one that was decoded.
    const share = Math.min(1, Math.max(0, (this.#position - from) / (to - from)));
    this.head.style.setProperty("transform", `translateX(${share * this.track.clientWidth}px)`);
  }

  #drawSoon() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#draw();
    });
  }

  #draw() {
    const [from, to] = this.#range();
    drawBars(this.canvas, this.#windows, this.#palette, from, to);
    drawRuns(this.runsRow, this.#runs, this.#palette, from, to);
    drawAxis(this.axis, from, to);
    this.#placeHead();
    this.track.tabIndex = this.#usable ? 0 : -1;
    this.track.setAttribute("aria-disabled", String(!this.#usable));
    this.#root.dataset.used = String(this.#windows.length > 0);
  }
}
