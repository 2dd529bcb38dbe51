// Questions to sep-explore over HTTP (explore.py says which there are). What is wrong is an Error of one line.

export async function ask(path, body, {signal} = {}) {
  const asked = body === undefined ? {method: "GET"} : {method: "POST", body: JSON.stringify(body)};
  return read(await fetch(`api/${path}`, {...asked, signal}));
}

export async function put(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();  // fetch does not tell how much has been sent
    request.open("PUT", `api/file?name=${encodeURIComponent(file.name)}`);
    request.upload.onprogress = (event) => progress(event.loaded / Math.max(event.total, 1));
    request.onerror = () => reject(new Error("the server has gone; start sep-explore again"));
    request.onload = () => {
      let said = {};
      try {
        said = JSON.parse(request.responseText);
      } catch {
        said = {error: `an answer that is none, status ${request.status}`};
      }
      if (request.status < 400) resolve(said);
      else reject(new Error(said.error));
    };
    request.send(file);
  });
}

async function read(answer) {
  const isJson = answer.headers.get("content-type")?.startsWith("application/json");
  const said = isJson ? await answer.json() : await answer.arrayBuffer();
  if (!answer.ok) throw new Error(said.error ?? `an answer that is none, status ${answer.status}`);
  return said;
}

// Calls ``act(signal)`` for the newest wish only: one at a time, and what was wished meanwhile is forgotten but for the last.
export class Newest {
  constructor(act) {
    this.act = act;
    this.running = false;
    this.again = false;
  }

  async wish() {
    this.again = true;
    if (this.running) return;
    this.running = true;
    try {
      while (this.again) {
        this.again = false;
        await this.act();
      }
    } finally {
      this.running = false;
    }
  }
}
