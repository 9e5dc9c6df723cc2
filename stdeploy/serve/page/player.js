/** The picture with its controls. Where the browser cannot play a file, only the position moves. */

import { clock } from "./words.js";

const UNPLAYABLE = "This browser cannot play this file; the server may read it even so.";
const DAMAGED = "This browser cannot play this file further; the server may read more.";

const CONTROLS = ["play", "sound", "full"];

const byId = (id) => document.getElementById(id);

export class Player {
  #video = byId("video");
  #address = null;
  #position = 0;
  #allSeconds = 0;
  #onMove;
  #onLength;
  #ticking = false;
  #touched = false;
  #isDue = false;

  /**
   * @param {{move: Function, length: Function}} on move(seconds, isSpoken) when the position
   *   changed, isSpoken unless it runs by itself; length(seconds) when the duration is known.
   */
  constructor(on) {
    this.#onMove = on.move;
    this.#onLength = on.length;
    const video = this.#video;
    video.addEventListener("loadedmetadata", () => this.#opened());
    video.addEventListener("error", () => this.#refused());
    for (const name of ["play", "pause", "ended"])
      video.addEventListener(name, () => this.#showState());
    for (const name of ["seeked", "timeupdate"]) video.addEventListener(name, () => this.#moved());
    video.addEventListener("volumechange", () => this.#showState());
    video.addEventListener("click", () => {
      if (!document.fullscreenElement) this.toggle();
    });
    byId("play").addEventListener("click", () => this.toggle());
    byId("sound").addEventListener("click", () => {
      video.muted = !video.muted;
    });
    byId("full").addEventListener("click", () => byId("picture").requestFullscreen());
    document.addEventListener("fullscreenchange", () => {
      // Our own controls are not part of the picture; the browser's stand in for them.
      video.controls = document.fullscreenElement !== null;
    });
  }

  get isPlayable() {
    return byId("stage").dataset.state === "video";
  }

  get durationSeconds() {
    return this.#allSeconds;
  }

  get positionSeconds() {
    return this.#position;
  }

  /** Show a file from its beginning. */
  open(file) {
    this.close();
    this.#address = URL.createObjectURL(file);
    this.#video.src = this.#address;
    byId("name").textContent = file.name;
    byId("stage").dataset.state = "opening";
  }

  /** Show what a camera sees. */
  openStream(stream) {
    this.close();
    this.#video.srcObject = stream;
    this.#video.play().catch(() => {});
    byId("name").textContent = "Camera";
    byId("stage").dataset.state = "camera";
  }

  /** Show nothing. */
  close() {
    const video = this.#video;
    video.pause();
    if (video.srcObject) video.srcObject = null;
    if (video.hasAttribute("src")) {
      video.removeAttribute("src");
      video.load();
    }
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = null;
    this.#position = 0;
    this.#allSeconds = 0;
    this.#touched = false;
    this.#isDue = false;
    video.muted = true;
    byId("notice").hidden = true;
    byId("name").textContent = "";
    byId("stage").dataset.state = "empty";
    for (const id of CONTROLS) byId(id).disabled = true;
    this.#showState();
  }

  /** How long the video is, as the server says. */
  set durationSeconds(seconds) {
    this.#allSeconds = seconds;
    this.#showClock();
  }

  seek(seconds) {
    this.#touched = true;
    this.#position = seconds;
    if (this.isPlayable)
      this.#video.currentTime = Math.min(seconds, this.#video.duration || seconds);
    this.#showClock();
    this.#onMove(seconds, true);
  }

  toggle() {
    if (!this.isPlayable) return;
    this.#touched = true;
    const video = this.#video;
    if (video.paused) video.play().catch(() => {});
    else video.pause();
  }

  /** Play, or as soon as that can be, unless the person has taken over or wants no motion. */
  start() {
    this.#isDue = true;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (this.isPlayable && !this.#touched && !still) this.#video.play().catch(() => {});
  }

  #opened() {
    if (this.#video.srcObject) return;
    if (!this.#video.videoWidth) {
      // Sound that it knows, pictures that it does not.
      this.#refused();
      return;
    }
    byId("stage").dataset.state = "video";
    byId("play").disabled = false;
    byId("sound").disabled = false;
    byId("full").disabled = !document.fullscreenEnabled;
    if (Number.isFinite(this.#video.duration)) {
      this.#allSeconds ||= this.#video.duration;
      this.#onLength(this.#video.duration);
    }
    this.#showClock();
    // Answers can be faster than the browser opens the file.
    if (this.#isDue) this.start();
  }

  #refused() {
    if (!this.#address) return;
    byId("notice").textContent = this.isPlayable ? DAMAGED : UNPLAYABLE;
    byId("notice").hidden = false;
    byId("stage").dataset.state = "blind";
    for (const id of CONTROLS) byId(id).disabled = true;
    this.#showState();
  }

  #moved() {
    if (!this.isPlayable) return;
    this.#position = this.#video.currentTime;
    this.#showClock();
    this.#onMove(this.#position, this.#video.paused);
  }

  #showState() {
    const { muted } = this.#video;
    const paused = this.#video.paused || !this.isPlayable;
    byId("play").setAttribute("aria-label", paused ? "Play" : "Pause");
    byId("play").dataset.playing = String(!paused);
    byId("sound").setAttribute("aria-pressed", String(!muted));
    this.#showClock();
    if (!paused) this.#tick();
  }

  #showClock() {
    byId("now").textContent = clock(this.#position);
    byId("all").textContent = clock(this.#allSeconds);
  }

  // timeupdate comes four times a second, too seldom for a mark that moves.
  #tick() {
    if (this.#ticking) return;
    this.#ticking = true;
    const step = () => {
      this.#ticking = !this.#video.paused && this.isPlayable;
      if (!this.#ticking) return;
      this.#moved();
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }
}
