// Recognises a handwritten digit in Node.js:
//
//   sardonyx compile runtime/data/digits.onnx --target wasm32 -o digits.wasm
//   node examples/deploy/digits.mjs
import fs from "node:fs";
import { Model } from "./sardonyx.mjs";

const picture = "  .@@.   .@@@@.  @@  @@  @@  @@  @@  @@  @@  @@  .@@@@.   .@@.  ";
const data = Uint8Array.from(picture, (c) => ({ "@": 16, ".": 8 })[c] ?? 0);

const model = await Model.load(fs.readFileSync("digits.wasm"), "digits");
const { digit, probabilities } = model.run({ image: { data, dims: [1, 8, 8] } });
const found = Number(digit.data[0]);
console.log(`${found} (${Math.round(100 * probabilities.data[found])}%)`);
model.close();
