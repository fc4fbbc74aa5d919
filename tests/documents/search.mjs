// Asks the search of a built site, in the theme's own worker: node search.mjs SITE WORD...; prints pages by word, best first.
import { readFileSync, readdirSync } from "node:fs";
import vm from "node:vm";

const [site, ...words] = process.argv.slice(2);
const workers = `${site}/assets/javascripts/workers`;
const script = readdirSync(workers).find((name) => /^search.*\.js$/.test(name));
const heard = [];
let told = () => {};
const scope = {
  console, URL, setTimeout, clearTimeout, TextEncoder, TextDecoder,
  location: { href: "https://site/" },
  addEventListener: (kind, listener) => kind === "message" && heard.push(listener),
  postMessage: (message) => told(message),
};
scope.self = scope.globalThis = scope;
vm.runInNewContext(readFileSync(`${workers}/${script}`, "utf8"), scope);

const ask = (message) =>
  new Promise((resolve) => {
    told = resolve;
    for (const listener of heard) listener({ data: message });
  });

const index = JSON.parse(readFileSync(`${site}/search/search_index.json`, "utf8"));
await ask({ type: 0, data: { ...index, options: { suggest: false } } });
const found = {};
for (const word of words) {
  const answer = await ask({ type: 2, data: word });
  const items = answer.data.items ?? answer.data;
  found[word] = items.map((group) => group[0].location.split("#")[0]);
}
console.log(JSON.stringify(found));
