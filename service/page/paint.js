// Pictures and maps on a canvas. Nothing is read back from one.

const GREY = [0.35, 82]; // the picture below an evidence map: contrast and the level of black, so that light and dark show
const EVIDENCE_PIXELS = 240; // side of a canvas with an evidence map
const LIGHT = [255, 226, 138];
const DARK = [16, 20, 66];

/** The colours of a map from its lowest to its highest value, 256 of them, as the theme has them. */
export function ramp() {
  const style = getComputedStyle(document.documentElement);
  const stops = ["--ramp-low", "--ramp-middle", "--ramp-high"].map((name) =>
    style.getPropertyValue(name).trim().split(/\s+/).map(Number));
  return Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * 2;
    const first = Math.min(1, Math.floor(place));
    return stops[first].map((value, channel) => value + (stops[first + 1][channel] - value) * (place - first));
  });
}

/** An image of 1 or 3 channels, interleaved. */
export function paintImage(canvas, { channels, width, height, data }) {
  paint(canvas, width, height, (row, column) => {
    const index = (row * width + column) * channels;
    return channels === 1 ? [data[index], data[index], data[index]] : data.subarray(index, index + 3);
  });
}

export function paintMap(canvas, bytes, width, height, colours) {
  paint(canvas, width, height, (row, column) => colours[bytes[row * width + column]]);
}

/** The evidence for one class over the image: light speaks for it, dark against it. Byte 127.5 is zero. */
export function paintEvidence(canvas, seen, evidence, classIndex) {
  const { width, height } = evidence;
  const bytes = evidence.data.subarray(classIndex * width * height, (classIndex + 1) * width * height);
  const [top, left, bottom, right] = evidence.box;
  paint(canvas, EVIDENCE_PIXELS, EVIDENCE_PIXELS, (row, column) => {
    const [y, x] = [(row + 0.5) / EVIDENCE_PIXELS, (column + 0.5) / EVIDENCE_PIXELS];
    const index = (Math.floor(y * seen.height) * seen.width + Math.floor(x * seen.width)) * seen.channels;
    const pixel = seen.data.subarray(index, index + seen.channels);
    const luma = pixel.length === 1 ? pixel[0] : 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
    const base = GREY[1] + GREY[0] * luma;
    const inside = y >= top && y < bottom && x >= left && x < right;
    const value = inside
      ? interpolated(bytes, width, height, ((y - top) / (bottom - top)) * height - 0.5, ((x - left) / (right - left)) * width - 0.5)
      : 127.5;
    const weight = Math.min(1, Math.abs(value - 127.5) / 127.5) ** 0.7 * 0.9;
    return (value > 127.5 ? LIGHT : DARK).map((level) => base + (level - base) * weight);
  });
}

function interpolated(bytes, width, height, y, x) {
  const clamp = (value, side) => Math.max(0, Math.min(side - 1, value));
  const [top, left] = [Math.floor(y), Math.floor(x)];
  const [dy, dx] = [y - top, x - left];
  const at = (row, column) => bytes[clamp(row, height) * width + clamp(column, width)];
  return (
    (1 - dy) * ((1 - dx) * at(top, left) + dx * at(top, left + 1)) +
    dy * ((1 - dx) * at(top + 1, left) + dx * at(top + 1, left + 1))
  );
}

function paint(canvas, width, height, colour) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let row = 0, index = 0; row < height; row++) {
    for (let column = 0; column < width; column++, index += 4) {
      const [red, green, blue] = colour(row, column);
      image.data[index] = red;
      image.data[index + 1] = green;
      image.data[index + 2] = blue;
      image.data[index + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

/** Places an outline over a picture; the edges are fractions of its sides. */
export function outline(element, top, left, bottom, right) {
  const edges = { top, left, width: right - left, height: bottom - top };
  for (const [name, value] of Object.entries(edges)) element.style.setProperty(name, `${100 * value}%`);
  element.hidden = false;
}
