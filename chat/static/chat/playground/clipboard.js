// What can be copied.

/** The request as a line for a shell. The key is a variable of the shell, never the key. */
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
  // Without HTTPS, on a server in the local network for instance, there is only the old way.
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
