// The sum behind one cell of the first layer. Pure functions and one table.

import { valueOf } from "./pixels.js";
import { number } from "./words.js";

/** Why the sum cannot be shown, in one sentence; empty if it can. */
export function whyNot(explained, network) {
  const { seen, stages } = explained;
  if (seen.channels !== 1) {
    return "The sum of one cell is not shown for photos: the service sends this map and this picture reduced, " +
      "so the numbers here would not add up. The outline is exact.";
  }
  if (!network) return "The sum is not shown: the description of this network is not available.";
  if (!network.first_layer?.weights) return "The sum is not shown: this architecture has no such first layer.";
  if (stages[0].height !== stages[0].shape[1]) return "The sum is not shown: the service sends this map reduced.";
  return "";
}

/** The terms of a cell: value = bias + sum of weight × (pixel − mean) / std. Outside the picture the scaled level is 0. */
export function termsOf(seen, layer, channel, row, column) {
  const [filter] = layer.weights[channel];
  const terms = filter.flatMap((weights, y) => weights.map((weight, x) => {
    const [pixelRow, pixelColumn] = [row * layer.stride - layer.padding + y, column * layer.stride - layer.padding + x];
    const inside = pixelRow >= 0 && pixelRow < seen.height && pixelColumn >= 0 && pixelColumn < seen.width;
    const level = inside ? seen.data[pixelRow * seen.width + pixelColumn] : layer.mean;
    const scaled = (level - layer.mean) / layer.std;
    return { row: pixelRow, column: pixelColumn, inside, level, scaled, weight, product: weight * scaled };
  }));
  const bias = layer.bias?.[channel] ?? 0;
  return { terms, bias, value: terms.reduce((sum, term) => sum + term.product, bias) };
}

/** Fills the table and returns whether the sum equals the map of the service within half a step of its bytes. */
export function showSum(table, explained, layer, shown, row, column) {
  const [stage] = explained.stages;
  const { terms, bias, value } = termsOf(explained.seen, layer, stage.channels[shown], row, column);
  const sent = valueOf(stage.data[(shown * stage.height + row) * stage.width + column], stage);
  const halfStep = (stage.high - stage.low) / 255 / 2;
  const agrees = Math.abs(value - sent) <= halfStep * 1.001 + 1e-5 * Math.max(1, Math.abs(value));
  table.caption.textContent = `Map ${stage.channels[shown]}, row ${row}, column ${column}: mean ${layer.mean}, deviation ${layer.std}`;
  table.tBodies[0].replaceChildren(...terms.map((term) => tableRow(
    `${term.row}, ${term.column}${term.inside ? "" : " (outside)"}`,
    [term.inside ? String(term.level) : number(term.level), number(term.scaled), number(term.weight), number(term.product)],
  )));
  table.tFoot.replaceChildren(
    tableRow("Sum of the products", ["", "", "", number(value - bias)]),
    tableRow("Bias", ["", "", "", number(bias)]),
    tableRow("Sum + bias", ["", "", "", number(value)]),
    tableRow("Map of the service", ["", "", "", number(sent)]),
  );
  Object.assign(table.dataset, { value, sent, halfStep, agrees });
  return agrees;
}

export function tableRow(name, values) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  row.append(head, ...values.map((value) => {
    const cell = document.createElement("td");
    cell.textContent = value;
    return cell;
  }));
  return row;
}
