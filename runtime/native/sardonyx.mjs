// Runs a model that `sardonyx compile MODEL --target wasm32 -o NAME.wasm` wrote, in browsers and in Node.js.
//
//   import { Model } from "./sardonyx.mjs";
//   const model = await Model.load(await (await fetch("digits.wasm")).arrayBuffer(), "digits");
//   const { label } = model.run({ image: { data: new Uint8Array(64), dims: [1, 8, 8] } });
//
// Tensors are { data, dims }: a typed array in row-major order and its sizes. float16 and bfloat16 are Uint16Array, bool is Uint8Array.

const ARRAYS = new Map([
  [1, Float32Array], [2, Uint8Array], [3, Int8Array], [4, Uint16Array], [5, Int16Array], [6, Int32Array], [7, BigInt64Array], [9, Uint8Array], [10, Uint16Array],
  [11, Float64Array], [12, Uint32Array], [13, BigUint64Array], [14, Float32Array], [15, Float64Array], [16, Uint16Array], [17, Uint8Array], [18, Uint8Array],
  [19, Uint8Array], [20, Uint8Array], [21, Uint8Array], [22, Int8Array], [23, Uint8Array], [24, Uint8Array], [25, Uint8Array], [26, Int8Array],
]);
const MAX_RANK = 8, TENSOR_BYTES = 16 + 8 * MAX_RANK, PORT_DIMS = 16, PORT_NAMES = PORT_DIMS + 8 * MAX_RANK;

export class Model {
  /** Compile the module's bytes (ArrayBuffer or typed array); `name` is the file's name without its ending. */
  static async load(bytes, name) {
    const { instance } = await WebAssembly.instantiate(bytes, {});
    return new Model(instance, name);
  }

  constructor(instance, name) {
    this.exports = instance.exports;
    this.name = name;
    this.exports._initialize();
    const place = this.#take(4);
    this.#check(this.#call("open", 0, place), 0);
    this.handle = this.#view().getUint32(place, true);
    this.exports.free(place);
    this.inputs = this.#ports("input");
    this.outputs = this.#ports("output");
  }

  /** Run on { input name: { data, dims } }; gives { output name: { data, dims } }. */
  run(feeds) {
    const taken = [], inputs = this.#tensors(this.inputs.length, taken), outputs = this.#tensors(this.outputs.length, taken);
    try {
      this.inputs.forEach((port, k) => this.#put(inputs + k * TENSOR_BYTES, port, feeds[port.name], taken));
      this.#check(this.#call("run", this.handle, inputs, this.inputs.length, outputs, this.outputs.length), this.handle);
      return Object.fromEntries(this.outputs.map((port, k) => [port.name, this.#get(outputs + k * TENSOR_BYTES)]));
    } finally {
      taken.forEach((at) => this.exports.free(at));
    }
  }

  close() {
    this.#call("close", this.handle);
    this.handle = 0;
  }

  #call(f, ...args) { return this.exports[`${this.name}_${f}`](...args); }
  #view() { return new DataView(this.exports.memory.buffer); }

  #take(bytes) {
    const at = this.exports.malloc(Math.max(bytes, 1));
    if (!at) throw new Error(`no memory for ${bytes} bytes`);
    new Uint8Array(this.exports.memory.buffer, at, bytes).fill(0);
    return at;
  }

  #tensors(count, taken) {
    const at = this.#take(count * TENSOR_BYTES);
    taken.push(at);
    return at;
  }

  #text(at) {
    const all = new Uint8Array(this.exports.memory.buffer);
    return at ? new TextDecoder().decode(all.slice(at, all.indexOf(0, at))) : null;
  }

  #check(status, handle) {
    if (status) throw new Error(this.#text(this.#call("error", handle)) || `status ${status}`);
  }

  #ports(what) {
    const found = [];
    for (let k = 0; k < this.#call(`${what}_count`); k++) {
      const at = this.#call(what, k), v = this.#view(), rank = v.getInt32(at + 12, true), dims = [];
      for (let d = 0; d < rank; d++) {
        const size = Number(v.getBigInt64(at + PORT_DIMS + 8 * d, true));
        dims.push(size >= 0 ? size : this.#text(v.getUint32(at + PORT_NAMES + 4 * d, true)));
      }
      found.push({ name: this.#text(v.getUint32(at, true)), type: v.getInt32(at + 4, true), itemSize: v.getInt32(at + 8, true), dims });
    }
    return found;
  }

  #put(at, port, tensor, taken) {
    if (!tensor) throw new Error(`input '${port.name}' is missing; the model takes ${this.inputs.map((p) => p.name).join(", ")}`);
    const { data, dims } = tensor, kind = ARRAYS.get(port.type);
    if (!(data instanceof kind)) throw new Error(`input '${port.name}' must be a ${kind.name}`);
    if (dims.length > MAX_RANK) throw new Error(`input '${port.name}' has ${dims.length} dimensions, at most ${MAX_RANK} are possible`);
    const place = this.#take(data.byteLength);
    taken.push(place);
    new Uint8Array(this.exports.memory.buffer).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), place);
    const v = this.#view();
    [place, data.byteLength, port.type, dims.length].forEach((word, k) => v.setUint32(at + 4 * k, word, true));
    dims.forEach((size, d) => v.setBigInt64(at + 16 + 8 * d, BigInt(size), true));
  }

  #get(at) {
    const v = this.#view(), kind = ARRAYS.get(v.getInt32(at + 8, true)), rank = v.getInt32(at + 12, true);
    const dims = Array.from({ length: rank }, (_, d) => Number(v.getBigInt64(at + 16 + 8 * d, true)));
    const start = v.getUint32(at, true);
    return { data: new kind(this.exports.memory.buffer.slice(start, start + v.getUint32(at + 4, true))), dims };
  }
}
