/** How times, sizes and scores are written. Pure. */

/** Write 75.25 as "1:15.3", 3600 as "1:00:00.0". */
export function clock(seconds) {
  const tenths = Math.max(0, Math.round(seconds * 10));
  const hours = Math.floor(tenths / 36000);
  const minutes = Math.floor(tenths / 600) % 60;
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** Write 12.34 as "12 ms", 1234 as "1.23 s". */
export function duration(milliseconds) {
  if (milliseconds < 9.95) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 999.5) return `${Math.round(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(milliseconds < 99950 ? 2 : 0)} s`;
}

/** Write a number of bytes as "635 kB" or "12.4 MB". */
export function size(bytes) {
  if (bytes < 1000) return counted(bytes, "byte");
  if (bytes < 999500) return `${Math.round(bytes / 1000)} kB`;
  if (bytes < 999.95e6) return `${(bytes / 1e6).toFixed(1)} MB`;
  return `${(bytes / 1e9).toFixed(2)} GB`;
}

/** Write a score in 0..1 with two digits. */
export function scored(score) {
  return score < 0.005 ? "<0.01" : score.toFixed(2);
}

/** Write "1 window", "3 windows". */
export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
