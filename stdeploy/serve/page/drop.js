/** Files that are dragged onto any place of the page. */

/**
 * @param {HTMLElement} veil shown while files are dragged over the page.
 * @param {{take: (file: File) => void, refuse: (words: string) => void}} on
 */
export function watchDrops(veil, on) {
  // Each element on the way fires enter and leave, so the veil hides when they cancel out.
  let depth = 0;
  const show = () => {
    veil.hidden = depth <= 0;
  };
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth += 1;
    show();
  });
  addEventListener("dragleave", (event) => {
    if (!hasFiles(event)) return;
    depth -= 1;
    show();
  });
  addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    depth = 0;
    show();
    if (!hasFiles(event)) return;
    event.preventDefault();
    const [item] = [...event.dataTransfer.items].filter(({ kind }) => kind === "file");
    if (item?.webkitGetAsEntry?.()?.isDirectory) {
      on.refuse("That is a folder. Drop one video.");
      return;
    }
    const [file] = event.dataTransfer.files;
    if (file) on.take(file);
  });
}

function hasFiles(event) {
  return event.dataTransfer?.types.includes("Files") ?? false;
}
