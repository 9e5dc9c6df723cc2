/** The line that says what goes on: in words, with progress, and what one can do about it. */

const byId = (id) => document.getElementById(id);

export class State {
  #countdown = 0;

  /** @param {{again: () => void, cancel: () => void}} on */
  constructor(on) {
    byId("again").addEventListener("click", () => on.again());
    byId("cancel").addEventListener("click", () => on.cancel());
  }

  /**
   * Something is under way.
   *
   * @param {string} said is spoken by screen readers when it changes.
   * @param {{detail?: string, share?: ?number}} more detail: is not spoken; share: what is done,
   *   in 0..1, null where that is not known.
   */
  busy(said, { detail = "", share = null } = {}) {
    this.#show("busy", { said, detail, canCancel: true });
    const progress = byId("progress");
    if (share === null) progress.removeAttribute("value");
    else progress.value = share;
  }

  /** Nothing is under way, or nothing that ends by itself. */
  idle(said, { detail = "", again = "" } = {}) {
    this.#show("idle", { said, detail, again });
  }

  /**
   * Something went wrong.
   *
   * @param {string} wrong is spoken at once.
   * @param {{requestId: string, retrySeconds: ?number}} fault
   * @param {{again?: string}} more again: the words on the button.
   */
  wrong(wrong, { requestId, retrySeconds }, { again = "" } = {}) {
    const wait = again && retrySeconds ? Math.ceil(retrySeconds) : 0;
    const when = wait ? ` Try again in ${wait} s.` : "";
    const detail = requestId ? `Request ${requestId}` : "";
    this.#show("wrong", { wrong: wrong + when, detail, again });
    if (wait) this.#count(wait, again);
  }

  // The button may be pressed before: the server's advice is no promise.
  #count(seconds, again) {
    let left = seconds;
    const show = () => {
      byId("again").textContent = left > 0 ? `${again} (${left} s)` : again;
      if (left <= 0) clearInterval(this.#countdown);
      left -= 1;
    };
    this.#countdown = setInterval(show, 1000);
    show();
  }

  #show(state, { said = "", wrong = "", detail = "", again = "", canCancel = false }) {
    clearInterval(this.#countdown);
    byId("state").dataset.state = state;
    write("said", said);
    write("wrong", wrong);
    write("detail", detail);
    write("again", again);
    // A focused button that goes away would leave the keyboard at the top of the page.
    const wasFocused =
      document.activeElement === byId("cancel") || document.activeElement === byId("again");
    byId("again").hidden = !again;
    byId("cancel").hidden = !canCancel;
    if (wasFocused) (again ? byId("again") : canCancel ? byId("cancel") : byId("choose")).focus();
  }
}

// A live region speaks whenever its text is written, so the same text is not written again.
function write(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}
