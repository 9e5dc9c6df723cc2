/** The command that asks the server for the same. */

import { apiKey, classifyPath, mediaType } from "./api.js";

/**
 * @param {?File} file null: a name that stands for one.
 * @param {object} options see classifyPath.
 */
export function curlCommand(file, options) {
  const name = file?.name ?? "video.mp4";
  const type = file ? mediaType(file) : "video/mp4";
  const address = new URL(classifyPath({ ...options, timeline: true }), document.baseURI);
  return [
    `curl --data-binary ${quoted(`@${name}`)}`,
    `-H ${quoted(`Content-Type: ${type}`)}`,
    ...(apiKey.get() ? ['-H "Authorization: Bearer $STDEPLOY_KEY"'] : []),
    quoted(address.href),
  ].join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
