/** Which label has which colour. Pure. */

export const COLOURS = 7;

/**
 * Gives colours 1..7 to the labels that are on top for the longest time.
 *
 * A label keeps its colour until a newcomer has been on top for longer than the weakest of those
 * that hold one, so that colours stay while windows come in.
 */
export class Palette {
  #weights = new Map();
  #held = new Map();

  /** Take note that a label was on top for a time (or how much it counts otherwise). */
  add(label, seconds) {
    const weight = (this.#weights.get(label) ?? 0) + seconds;
    this.#weights.set(label, weight);
    if (this.#held.has(label)) return;
    if (this.#held.size < COLOURS) {
      this.#held.set(label, this.#held.size + 1);
      return;
    }
    const [weakest, colour] = [...this.#held].reduce((a, b) =>
      this.#weights.get(b[0]) < this.#weights.get(a[0]) ? b : a,
    );
    if (this.#weights.get(weakest) < weight) {
      this.#held.delete(weakest);
      this.#held.set(label, colour);
    }
  }

  /** The colour 1..7 of a label, or "rest". */
  colourOf(label) {
    return this.#held.get(label) ?? "rest";
  }
}
