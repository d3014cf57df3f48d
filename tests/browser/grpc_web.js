// gRPC-Web with nothing but fetch, and as much protobuf as one page needs.
// A real page would use stubs generated from proto/.

const utf8 = new TextEncoder(), text = new TextDecoder();

function varint(number) {
  const bytes = [];
  for (let rest = BigInt(number); ; rest >>= 7n) {
    if (rest < 128n) return [...bytes, Number(rest)];
    bytes.push(Number(rest & 127n) | 128);
  }
}

// {field number: string or integer}
export function encode(fields) {
  return Uint8Array.from(Object.entries(fields).flatMap(([number, value]) => {
    if (typeof value !== "string") return [...varint(number << 3), ...varint(value)];
    const bytes = utf8.encode(value);
    return [...varint((number << 3) | 2), ...varint(bytes.length), ...bytes];
  }));
}

// {field number: [value, …]}: integers, doubles, and bytes for all else.
export function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const fields = {};
  let at = 0;
  const next = () => {
    for (let number = 0n, shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      number |= BigInt(byte & 127) << shift;
      if (byte < 128) return Number(number);
    }
  };
  while (at < bytes.length) {
    const key = next();
    let value;
    switch (key & 7) {
      case 0: value = next(); break;
      case 1: value = view.getFloat64(at, true); at += 8; break;
      case 2: { const length = next(); value = bytes.subarray(at, at += length); break; }
      default: throw new Error(`wire type ${key & 7}`);
    }
    (fields[key >> 3] ??= []).push(value);
  }
  return fields;
}

export const string = (bytes) => (bytes ? text.decode(bytes) : "");

function check(status, message) {
  if (status !== "0") throw new Error(`status ${status}: ${decodeURIComponent(message ?? "")}`);
}

// The messages of one call, as they come.
export async function* call(server, token, method, message) {
  const body = new Uint8Array(5 + message.length);
  new DataView(body.buffer).setUint32(1, message.length);
  body.set(message, 5);
  const response = await fetch(`${server}/arcp.v1.JobService/${method}`, {
    method: "POST",
    headers: {
      "authorization": `Bearer ${token}`,
      "content-type": "application/grpc-web+proto",
      "x-grpc-web": "1",
    },
    body,
  });
  const { headers } = response;
  // A call refused at once has its status in the headers.
  if (headers.has("grpc-status")) check(headers.get("grpc-status"), headers.get("grpc-message"));
  const reader = response.body.getReader();
  let rest = new Uint8Array();
  for (;;) {
    while (rest.length >= 5) {
      const end = 5 + new DataView(rest.buffer, rest.byteOffset).getUint32(1);
      if (rest.length < end) break;
      const frame = rest.subarray(5, end);
      if (rest[0] & 0x80) {
        const trailers = new Map(text.decode(frame).trim().split("\r\n").map((line) => line.split(/: */, 2)));
        return check(trailers.get("grpc-status"), trailers.get("grpc-message"));
      }
      yield frame;
      rest = rest.subarray(end);
    }
    const { done, value } = await reader.read();
    if (done) throw new Error("the response ended without a status");
    const joined = new Uint8Array(rest.length + value.length);
    joined.set(rest);
    joined.set(value, rest.length);
    rest = joined;
  }
}
