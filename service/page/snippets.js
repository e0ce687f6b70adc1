// The same request as lines of curl, Python and JavaScript, with the address of this service.

const $ = (id) => document.getElementById(id);

/** Shows the lines for a picture; `withKey` adds the header with the API key, from the variable KEY. */
export function showSnippets(picture, withKey) {
  const name = picture?.name ?? "picture.png";
  const address = new URL("predict", document.baseURI).href;
  $("snippet-curl").textContent = curl(name, address, withKey);
  $("snippet-python").textContent = python(name, address, withKey);
  $("snippet-javascript").textContent = javascript(name, address, withKey);
  const note = $("snippet-file");
  note.replaceChildren();
  if (!picture) return;
  const link = document.createElement("a");
  link.href = picture.url;
  link.download = name;
  link.textContent = name;
  link.id = "snippet-link";
  note.append("Save ", link, " in the folder in which you run it.", withKey ? " Put your API key into the variable KEY." : "");
}

function curl(name, address, withKey) {
  const header = withKey ? ' -H "Authorization: Bearer $KEY"' : "";
  return `curl -s${header} --data-binary @${shellQuoted(name)} ${shellQuoted(address)}`;
}

function python(name, address, withKey) {
  const lines = ["import json", withKey && "import os", "from urllib.request import Request, urlopen", "",
    `with open(${JSON.stringify(name)}, "rb") as file:`,
    `    request = Request(${JSON.stringify(address)}, file.read(), {"Content-Type": "application/octet-stream"})`,
    withKey && `request.add_header("Authorization", "Bearer " + os.environ["KEY"])`,
    "with urlopen(request) as response:", `    print(json.load(response)["class"])`];
  return lines.filter((text) => text !== false).join("\n");
}

function javascript(name, address, withKey) {
  const lines = ['import { readFile } from "node:fs/promises";', "",
    `const body = await readFile(${JSON.stringify(name)});`,
    withKey && "const headers = { Authorization: `Bearer ${process.env.KEY}` };",
    `const response = await fetch(${JSON.stringify(address)}, { method: "POST", body${withKey ? ", headers" : ""} });`,
    "console.log((await response.json()).class);"];
  return lines.filter((text) => text !== false).join("\n");
}

function shellQuoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
