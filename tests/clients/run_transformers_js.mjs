// Runs one model of a folder in transformers.js on onnxruntime-node, and prints its outputs as JSON.
// Arguments: folder, "encode" or "generate", ids and mask as JSON, number of new tokens; or folder, "texts", texts as JSON.
import path from "node:path";
import { AutoModel, AutoModelForCausalLM, AutoTokenizer, Tensor, env } from "@huggingface/transformers";

const [folder, what, ids, mask, tokens] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder) + "/";
const int64 = (rows) =>
  new Tensor("int64", BigInt64Array.from(rows.flat().map(BigInt)), [rows.length, rows[0].length]);
const options = { dtype: "fp32", device: "cpu" };
const name = path.basename(folder);
const given = JSON.parse(ids);
if (what === "texts") {
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const model = await AutoModel.from_pretrained(name, options);
  const found = [];
  for (const text of given) {
    found.push((await model(tokenizer(text))).last_hidden_state.tolist());
  }
  console.log("outputs: " + JSON.stringify(found));
} else if (what === "encode") {
  const model = await AutoModel.from_pretrained(name, options);
  const zeros = given.map((row) => row.map(() => 0));
  const input_ids = int64(given);
  const attention_mask = int64(JSON.parse(mask));
  const { last_hidden_state } = await model({ input_ids, attention_mask, token_type_ids: int64(zeros) });
  console.log("outputs: " + JSON.stringify(last_hidden_state.tolist()));
} else {
  const model = await AutoModelForCausalLM.from_pretrained(name, options);
  const found = await model.generate({
    inputs: int64(given),
    attention_mask: int64(JSON.parse(mask)),
    max_new_tokens: Number(tokens),
    min_new_tokens: Number(tokens),
    do_sample: false,
  });
  console.log("outputs: " + JSON.stringify(found.tolist().map((row) => row.map(Number))));
}
