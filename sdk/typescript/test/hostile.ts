/** What an archive says of something. */
export interface Entry {
  name: string;
  flag?: string;
  target?: string;
  data?: string;
  size?: number;
  mode?: number;
}

/** An entry as a tar has it, whatever it says. */
export function entry(e: Entry): Buffer {
  const data = Buffer.from(e.data ?? "");
  const head = Buffer.alloc(512);
  head.write(e.name, 0);
  head.write((e.mode ?? 0o644).toString(8).padStart(7, "0"), 100);
  head.write((e.size ?? data.length).toString(8).padStart(11, "0"), 124);
  head.write("00000000000", 136);
  head.write(e.flag ?? "0", 156);
  head.write(e.target ?? "", 157);
  head.write("ustar\x0000", 257, "latin1");
  head.fill(32, 148, 156);
  head.write(head.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0") + "\0 ", 148, "latin1");
  return Buffer.concat([head, data, Buffer.alloc((512 - (data.length % 512)) % 512)]);
}

const end = Buffer.alloc(1024);
/** A tar, whatever it says. */
export const archive = (...entries: Entry[]): Buffer => Buffer.concat([...entries.map(entry), end]);
