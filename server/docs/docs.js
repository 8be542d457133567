// Shows the OpenAPI document of this server. Text from it is only ever set as text.
"use strict";

const methods = ["get", "head", "post", "put", "patch", "delete", "options"];

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

// prose splits text into paragraphs, and sets what is between backticks as code.
function prose(text) {
  return (text || "").split("\n\n").filter(Boolean).map((paragraph) =>
    element("p", {}, ...paragraph.split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part))));
}

function inline(text) {
  return (text || "").split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part));
}

function resolve(api, schema) {
  const name = schema && schema.$ref && schema.$ref.split("/").pop();
  return name ? { ...api.components.schemas[name], name, description: schema.description || api.components.schemas[name].description } : schema || {};
}

function typeName(api, schema) {
  const s = resolve(api, schema);
  if (s.oneOf) return s.oneOf.map((one) => typeName(api, one)).join(" or ");
  if (s.enum) return s.enum.join(" | ");
  if (s.type === "array") return "array of " + typeName(api, s.items);
  if (s.type === "object" && s.additionalProperties && s.additionalProperties !== true && !s.properties) return "object of " + typeName(api, s.additionalProperties);
  if (s.format === "binary") return "bytes";
  if (s.contentEncoding) return s.contentEncoding;
  return s.name || s.format && s.type === "string" && s.format || [].concat(s.type || "anything").join(" or ");
}

// fields lists the members of an object, and those of the objects in it.
function fields(api, schema, above) {
  let s = resolve(api, schema);
  while (s.type === "array") s = resolve(api, s.items);
  if (!s.properties || above.includes(s.name)) return null;
  const required = s.required || [];
  const list = element("dl", {});
  for (const [name, property] of Object.entries(s.properties)) {
    const p = resolve(api, property);
    list.append(
      element("dt", {}, name, required.includes(name) ? element("small", {}, " required") : ""),
      element("dd", {}, element("small", {}, typeName(api, property)), " ", ...inline(property.description || p.description),
        ...examples(p), fields(api, property, above.concat(s.name))));
  }
  return list;
}

function examples(schema) {
  if (!schema.examples || !schema.examples.length) return [];
  return [element("small", {}, " as in "), ...schema.examples.flatMap((e, i) => [i ? ", " : "", element("code", {}, JSON.stringify(e))])];
}

function body(api, title, content) {
  if (!content) return [];
  return Object.entries(content).flatMap(([type, media]) => [
    element("h4", {}, title + " ", element("code", {}, type)),
    ...prose(resolve(api, media.schema).description),
    fields(api, media.schema, []) || element("p", {}, element("small", {}, typeName(api, media.schema))),
  ]);
}

function example(api, method, path, operation) {
  const at = path.replace("{id}", "web").replace("{pid}", "42").replace("{port}", "8080").replace("{path}", "").replace("{file}", "docs.js");
  const query = (operation.parameters || []).filter((p) => p.in === "query" && p.required)
    .map((p) => p.name + "=" + ((p.schema.examples || [])[0] || "…")).join("&");
  let line = "curl --unix-socket /run/cove/cove.sock" + (method === "get" ? "" : " -X " + method.toUpperCase());
  const content = operation.requestBody && operation.requestBody.content || {};
  if (content["application/json"]) {
    const s = resolve(api, content["application/json"].schema);
    const sample = {};
    for (const name of s.required || []) {
      const p = resolve(api, s.properties[name]);
      sample[name] = p.examples ? p.examples[0] : p.type === "integer" ? 1 : "…";
    }
    line += " -H 'Content-Type: application/json' -d '" + JSON.stringify(sample) + "'";
  } else if (Object.keys(content).length) {
    line += " --data-binary @file";
  }
  return element("pre", {}, line + " 'http://cove" + at + (query ? "?" + query : "") + "'");
}

function article(api, method, path, operation) {
  const parameters = operation.parameters || [];
  const made = element("article", { id: operation.operationId, "data-text": [operation.operationId, path, operation.summary].join(" ").toLowerCase() },
    element("h3", {}, operation.summary),
    element("div", { class: "route" }, element("span", { class: "method " + method }, method.toUpperCase()), path),
    ...prose(operation.description));
  if (parameters.length) {
    made.append(element("h4", {}, "Parameters"), element("dl", {}, ...parameters.flatMap((p) => [
      element("dt", {}, p.name, element("small", {}, " " + p.in + (p.required ? ", required" : ""))),
      element("dd", {}, element("small", {}, typeName(api, p.schema)), " ", ...inline(p.description || p.schema.description), ...examples(p.schema)),
    ])));
  }
  made.append(...body(api, "Request", operation.requestBody && operation.requestBody.content));
  for (const [status, response] of Object.entries(operation.responses || {})) {
    if (status === "default") continue; // the same everywhere, and said at the top
    const parts = body(api, "Reply " + status, response.content);
    made.append(...(parts.length ? parts : [element("h4", {}, "Reply " + status), element("p", {}, response.description)]));
  }
  made.append(element("h4", {}, "Example"), example(api, method, path, operation));
  return made;
}

function show(api) {
  const main = document.getElementById("main"), index = document.getElementById("index");
  main.replaceChildren(element("h1", {}, api.info.title + " API " + api.info.version), ...prose(api.info.description),
    element("p", {}, element("a", { href: "/openapi.json" }, "OpenAPI document")));
  for (const tag of api.tags) {
    const articles = [], links = [];
    for (const [path, item] of Object.entries(api.paths)) {
      for (const method of methods) {
        const operation = item[method];
        if (!operation || !operation.tags.includes(tag.name)) continue;
        articles.push(article(api, method, path, operation));
        links.push(element("a", { href: "#" + operation.operationId, "data-for": operation.operationId },
          element("span", { class: "method " + method }, method.toUpperCase()), operation.summary));
      }
    }
    main.append(element("h2", {}, tag.name), ...prose(tag.description), ...articles);
    index.append(element("h2", {}, tag.name), ...links);
  }
  document.getElementById("find").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    for (const link of index.querySelectorAll("a")) {
      const target = document.getElementById(link.dataset.for);
      const hidden = !target.dataset.text.includes(wanted);
      link.classList.toggle("hidden", hidden);
      target.classList.toggle("hidden", hidden);
    }
  });
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

fetch("/openapi.json").then((reply) => {
  if (!reply.ok) throw new Error("the server answered " + reply.status);
  return reply.json();
}).then(show).catch((error) => {
  document.getElementById("status").textContent = "Could not show /openapi.json: " + error.message;
});
