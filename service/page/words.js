// Sentences and numbers as the page shows them. Pure functions.

export const CLASSES = [
  "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
];
export const STRANGER = "This does not look like any of the ten.";

const ADAPTED = {
  turned: () => "turned upright",
  "laid on a background": () => "laid on a background where it was transparent",
  cropped: () => "cropped",
  inverted: () => "inverted, so that the garment is bright on black",
  stretched: () => "stretched to the levels from black to white",
  padded: () => "padded to a square",
  resized: (side) => `resized to ${side}×${side} pixels`,
  sharpened: () => "sharpened",
};

/** A softmax is never 0 or 1, so neither is shown. */
export function percent(probability) {
  if (probability < 0.001) return "<0.1 %";
  if (probability > 0.999) return ">99.9 %";
  return `${(100 * probability).toFixed(1)} %`;
}

export function integer(value) {
  return value.toLocaleString("en");
}

/** Four significant digits, with a real minus sign. */
export function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(2) : value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3);
  return text.replace(/^-(?=0\.0+$)/, "").replaceAll("-", "−");
}

/** "A", "A or B", "A, B or C". */
export function list(names, word = "and") {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} ${word} ${names.at(-1)}`;
}

/** What the file was and what was done to it. */
export function input({ format, width, height, adapted }, side) {
  const file = `${format}, ${integer(width)}×${integer(height)} pixels.`;
  if (!adapted.length) return `${file} The pixels reached the network unchanged.`;
  return `${file} The picture was ${list(adapted.map((word) => ADAPTED[word]?.(side) ?? word))}.`;
}

export function predictionSet(sets, familiar) {
  if (!sets) return "This network has no prediction sets: its checkpoint holds no thresholds for them.";
  const [likely, certain] = [sets["0.95"], sets["0.99"]];
  const end = familiar === false ? " This holds only for pictures like those of the training." : "";
  if (likely.join() === certain.join()) {
    return `${list(likely, "or")}: such a set holds the right class for 99 % of the pictures.${end}`;
  }
  return `${list(likely, "or")}: such a set holds the right class for 95 % of the pictures. ` +
    `For 99 % it is ${list(certain, "or")}.${end}`;
}

/** The first sentence about an answer: the stranger comes before the class. */
export function headline(answer) {
  const text = `${answer.class}, ${percent(answer.confidence)}`;
  return answer.familiar === false ? `${STRANGER} The closest class: ${text}` : text;
}

export function shape(sides) {
  return sides.join("×");
}

export function range([first, end]) {
  return end - first === 1 ? `${first}` : `${first} to ${end - 1}`;
}
