/** The camera: short clips, of which the newest is sent when the one before is answered. */

import { classifyClip, Fault } from "./api.js";

const CLIP_SECONDS = 3;
const KINDS = ["video/webm;codecs=vp8", "video/webm", "video/mp4"];
// Worth trying again by itself: full, starting, out of reach.
const PASSING = [0, 429, 503];
const PAUSE_SECONDS = 3;

const REFUSALS = {
  NotAllowedError:
    "The browser gives no access to the camera. Allow it in the settings of this site (beside the address) and try again.",
  NotFoundError: "There is no camera on this device.",
  NotReadableError: "The camera is in use by another program, or the system does not give it.",
  OverconstrainedError: "There is no camera on this device.",
};

/** Open the camera; throws Fault with the reason in words. */
async function opened() {
  if (!isSecureContext) {
    throw new Fault(
      `Browsers give the camera only to pages from https or from localhost, and this one is from ${location.origin}.`,
    );
  }
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
    throw new Fault("This browser cannot record from a camera.");
  }
  try {
    const video = { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } };
    return await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch (error) {
    throw new Fault(REFUSALS[error.name] ?? `The camera could not be opened (${error.name}).`);
  }
}

export class Camera {
  #on;
  #stream = null;
  #recorder = null;
  #timer = 0;
  #newest = null;
  #asking = null;
  #began = 0;
  #opening = false;
  #notBefore = 0;

  /**
   * @param {{open: Function, answer: Function, trouble: Function, stop: Function}} on
   *   open(stream) when there are pictures; answer(answer, {startSeconds, endSeconds,
   *   behindSeconds}) for each clip that was answered, times since the camera was opened;
   *   trouble(fault) where a clip was not, but it goes on; stop(fault or null) when it is off.
   * @param {() => object} options of the next request, see classifyPath.
   */
  constructor(on, options) {
    this.#on = on;
    this.options = options;
  }

  get isOn() {
    return this.#stream !== null || this.#opening;
  }

  async start() {
    this.#opening = true;
    let stream;
    try {
      stream = await opened();
    } catch (fault) {
      const wanted = this.#opening;
      this.#opening = false;
      if (wanted) this.#on.stop(fault);
      return;
    }
    if (!this.#opening) {
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    this.#opening = false;
    this.#stream = stream;
    this.#began = performance.now();
    this.#notBefore = 0;
    stream.getVideoTracks()[0].addEventListener("ended", () => {
      this.stop(new Fault("The camera went away."));
    });
    this.#on.open(stream);
    this.#record();
  }

  /** Let go of the camera and of the request under way. */
  stop(fault = null) {
    if (!this.isOn) return;
    this.#opening = false;
    clearTimeout(this.#timer);
    if (this.#recorder?.state === "recording") this.#recorder.stop();
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#recorder = null;
    this.#newest = null;
    this.#asking?.abort();
    this.#asking = null;
    this.#on.stop(fault);
  }

  // Every clip is a recording of its own, because only the first piece of one has a header.
  #record() {
    const stream = this.#stream;
    const mimeType = KINDS.find((kind) => MediaRecorder.isTypeSupported(kind));
    const recorder = new MediaRecorder(stream, { mimeType, videoBitsPerSecond: 1.5e6 });
    const start = performance.now();
    const pieces = [];
    recorder.ondataavailable = ({ data }) => pieces.push(data);
    recorder.onstop = () => {
      if (this.#stream !== stream) return;
      this.#record();
      const type = recorder.mimeType.split(";")[0];
      this.#newest = { blob: new Blob(pieces, { type }), start, end: performance.now() };
      this.#ask();
    };
    recorder.start();
    this.#recorder = recorder;
    this.#timer = setTimeout(() => recorder.stop(), CLIP_SECONDS * 1000);
  }

  async #ask() {
    const clip = this.#newest;
    if (this.#asking || !clip || performance.now() < this.#notBefore) return;
    this.#newest = null;
    const asking = new AbortController();
    this.#asking = asking;
    try {
      const answer = await classifyClip(clip.blob, this.options(), asking.signal);
      if (this.#asking !== asking) return;
      const seconds = (moment) => (moment - this.#began) / 1000;
      this.#on.answer(answer, {
        startSeconds: seconds(clip.start),
        endSeconds: seconds(clip.end),
        behindSeconds: (performance.now() - clip.end) / 1000,
      });
    } catch (fault) {
      if (this.#asking !== asking) return;
      if (!PASSING.includes(fault.status)) {
        this.stop(fault);
        return;
      }
      const pause = fault.retrySeconds ?? PAUSE_SECONDS;
      this.#notBefore = performance.now() + pause * 1000;
      this.#on.trouble(fault);
    }
    this.#asking = null;
    this.#ask();
  }
}
