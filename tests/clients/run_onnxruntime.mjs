// Runs one model with a package of ONNX Runtime, in Node.js, and prints its first output as JSON.
// Arguments: the package, the model, a file of inputs as JSON.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";

const [name, model, feeds] = process.argv.slice(2);
const ort = await import(name);
const inWasm = name === "onnxruntime-web";
if (inWasm) ort.env.wasm.numThreads = 1;
const beside = model + "_data";
// WebAssembly has no files: what lies beside the model is handed over.
const externalData = existsSync(beside) ? [{ path: path.basename(beside), data: readFileSync(beside) }] : [];
const session = inWasm
  ? await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"], externalData })
  : await ort.InferenceSession.create(model);
const inputs = {};
for (const [key, { type, dims, data }] of Object.entries(JSON.parse(readFileSync(feeds)))) {
  const values = type === "int64" ? BigInt64Array.from(data.map(BigInt)) : Float32Array.from(data);
  inputs[key] = new ort.Tensor(type, values, dims);
}
const outputs = await session.run(inputs);
const first = outputs[session.outputNames[0]];
console.log("outputs: " + JSON.stringify({ dims: first.dims, data: Array.from(first.data) }));
