// Pixels and bytes: base64, BMP, the edits of the bench, receptive fields. Pure functions; 28×28 pixels are a Uint8Array of 784.

export const SIDE = 28;
const BYTES = SIDE * SIDE;

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

export function toBase64Url(bytes) {
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** The 784 pixels in base64url, or null if the text holds no such picture. */
export function fromBase64Url(text) {
  if (!/^[\w-]+$/.test(text)) return null;
  try {
    const bytes = fromBase64(text.replaceAll("-", "+").replaceAll("_", "/"));
    return bytes.length === BYTES ? bytes : null;
  } catch {
    return null;
  }
}

/** A BMP file with 8 bits for each pixel and a grey palette. Written by hand, because browsers may change what is read from a canvas. */
export function bmp(pixels) {
  const start = 14 + 40 + 4 * 256;
  const file = new Uint8Array(start + BYTES);
  const view = new DataView(file.buffer);
  file.set([0x42, 0x4d]); // "BM"
  view.setUint32(2, file.length, true);
  view.setUint32(10, start, true);
  view.setUint32(14, 40, true); // bytes of this header
  view.setInt32(18, SIDE, true);
  view.setInt32(22, SIDE, true); // positive: the lowest row comes first
  view.setUint16(26, 1, true); // planes
  view.setUint16(28, 8, true); // bits for each pixel
  view.setUint32(34, BYTES, true);
  view.setUint32(46, 256, true); // colours
  for (let level = 0; level < 256; level++) file.fill(level, 54 + 4 * level, 57 + 4 * level);
  for (let row = 0; row < SIDE; row++) {
    file.set(pixels.subarray(row * SIDE, (row + 1) * SIDE), start + (SIDE - 1 - row) * SIDE);
  }
  return file;
}

export function equal(left, right) {
  return left.length === right.length && left.every((value, index) => value === right[index]);
}

export function shifted(pixels, right, down) {
  return mapped((row, column) => at(pixels, row - down, column - right));
}

/** Turned clockwise about the centre, with bilinear interpolation. */
export function turned(pixels, degrees) {
  if (degrees % 360 === 0) return pixels.slice();
  const angle = (degrees * Math.PI) / 180;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const centre = (SIDE - 1) / 2;
  return mapped((row, column) => {
    const [y, x] = [row - centre, column - centre];
    const from = [centre + y * cos - x * sin, centre + y * sin + x * cos].map((value) => Math.round(value * 1e6) / 1e6);
    const [top, left] = from.map(Math.floor);
    const [dy, dx] = [from[0] - top, from[1] - left];
    return (
      (1 - dy) * ((1 - dx) * at(pixels, top, left) + dx * at(pixels, top, left + 1)) +
      dy * ((1 - dx) * at(pixels, top + 1, left) + dx * at(pixels, top + 1, left + 1))
    );
  });
}

/** Each pixel times `gain`; black stays black. */
export function brightened(pixels, gain) {
  return mapped((row, column) => Math.min(255, at(pixels, row, column) * gain));
}

/** A square of `size` pixels set to `level`, around one pixel. Changes `pixels`. */
export function dab(pixels, row, column, size, level) {
  const before = Math.floor((size - 1) / 2);
  for (let y = row - before; y < row - before + size; y++) {
    for (let x = column - before; x < column - before + size; x++) {
      if (y >= 0 && y < SIDE && x >= 0 && x < SIDE) pixels[y * SIDE + x] = level;
    }
  }
}

/** The pixels that lie on a straight line between two. */
export function line([row, column], [lastRow, lastColumn]) {
  const steps = Math.max(Math.abs(lastRow - row), Math.abs(lastColumn - column), 1);
  return Array.from({ length: steps + 1 }, (_, step) => [
    Math.round(row + ((lastRow - row) * step) / steps),
    Math.round(column + ((lastColumn - column) * step) / steps),
  ]);
}

/** The first pixel and the one behind the last that cell `index` of a map sees, along one side of `side` pixels. */
export function seenBy(field, index, side) {
  const start = field.start + field.stride * index;
  return [Math.max(0, start), Math.min(side, start + field.size)];
}

/** The number that a byte of the answer stands for. */
export function valueOf(byte, { low, high }) {
  return low + (byte / 255) * (high - low);
}

function at(pixels, row, column) {
  return row < 0 || row >= SIDE || column < 0 || column >= SIDE ? 0 : pixels[row * SIDE + column];
}

function mapped(level) {
  return Uint8Array.from({ length: BYTES }, (_, index) => Math.round(level(Math.floor(index / SIDE), index % SIDE)));
}
