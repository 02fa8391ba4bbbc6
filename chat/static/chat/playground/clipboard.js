// Copy answers, code and requests.

/** The request as a shell command. It refers to the key by a shell variable. */
export function curl(url, needsKey, question) {
  return [
    `curl -N ${quoted(url)}`,
    "-H 'Content-Type: application/json'",
    ...(needsKey ? ['-H "X-API-Key: $API_KEY"'] : []),
    `-d ${quoted(JSON.stringify(question))}`,
  ].join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without HTTPS, e.g. in the local network, browsers offer only the old API.
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
