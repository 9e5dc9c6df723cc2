/** Asks for the API key; it lives in this tab's session only. */

import { apiKey } from "./api.js";

const byId = (id) => document.getElementById(id);

let asking = null;

/** Ask for the key; resolves to whether one was given. Who asks meanwhile gets the same answer. */
export function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-note").textContent = apiKey.get()
      ? "The server did not accept the key. Look whether it is whole and the right one."
      : "It is kept in this tab only, until you close it.";
    forgetKey();
    dialog.returnValue = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        const key = byId("key").value.trim();
        byId("key").value = "";
        const isGiven = dialog.returnValue === "use" && key !== "";
        if (isGiven) apiKey.set(key);
        showForget();
        asking = null;
        resolve(isGiven);
      },
      { once: true },
    );
  });
  return asking;
}

/** Show the button that forgets a key, where there is one. */
export function showForget() {
  byId("forget-line").hidden = apiKey.get() === "";
}

/** Forget the key. */
export function forgetKey() {
  apiKey.forget();
  showForget();
}
