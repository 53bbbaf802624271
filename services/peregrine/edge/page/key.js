// Who is asking. An edge that wants to know answers 401; then a key is asked for, once for all
// requests that wait for it, and kept for this tab only: closing it forgets the key.

const STORED = "peregrine.key";

let asking = null;

export function signedIn() {
  return sessionStorage.getItem(STORED) !== null;
}

export function signOut() {
  sessionStorage.clear();
  location.assign("/");
}

export async function request(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(STORED);
    const headers = { ...options.headers };
    if (key !== null) headers.Authorization = `Bearer ${key}`;
    const response = await fetch(path, { ...options, headers });
    if (response.status !== 401 || !(await another(key, options.signal))) return response;
  }
}

// Whether there is another key to try than the one that was refused.
async function another(refused, signal) {
  if (sessionStorage.getItem(STORED) !== refused) return true;
  sessionStorage.removeItem(STORED);
  asking ??= dialog(refused !== null).finally(() => (asking = null));
  const given = await asking;
  if (signal?.aborted) throw new DOMException("left", "AbortError");
  return given;
}

function dialog(wasRefused) {
  const element = document.getElementById("key");
  const input = document.getElementById("api-key");
  document.getElementById("refused").hidden = !wasRefused;
  input.value = "";
  element.showModal();
  input.focus();
  return new Promise((resolve) => {
    const submitted = (event) => {
      event.preventDefault();
      const key = input.value.trim();
      if (!/^[\x21-\x7e]+$/.test(key)) return input.select();
      sessionStorage.setItem(STORED, key);
      element.close();
    };
    element.querySelector("form").addEventListener("submit", submitted);
    element.addEventListener("close", () => {
      element.querySelector("form").removeEventListener("submit", submitted);
      input.value = "";
      document.dispatchEvent(new CustomEvent("signed"));
      resolve(signedIn());
    }, { once: true });
  });
}
