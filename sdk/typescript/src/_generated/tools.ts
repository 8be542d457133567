// Generated from api/tools.json by scripts/generate.mjs. Not to be edited.
import type { ToolDefinition } from "../definitions.js";

/** Arguments of `shell`. */
export interface ShellArguments {
  /** The line for sh, with pipes, redirections and several commands as you like. */
  command: string;
  /** Seconds after which the command and everything that it started is killed. Default 120. */
  timeout?: number | null | undefined;
  /** Directory to run in; a relative one is below the working directory. Default the working directory. */
  cwd?: string | null | undefined;
  /** Text for its standard input. Default none. */
  stdin?: string | null | undefined;
}

/** What came of `shell`. */
export interface ShellData {
  /** what it wrote to standard output; bytes that are not UTF-8 are replaced */
  stdout: string;
  /** what it wrote to standard error */
  stderr: string;
  /** 0 when it succeeded, -1 when a signal ended it */
  exit_code: number;
  /** the signal that ended it, as in SIGKILL */
  signal?: string;
  /** it was killed because its time was over */
  timed_out: boolean;
  /** the middle of a stream that was too long was left out */
  truncated: boolean;
  /** how long it took, in milliseconds */
  duration_ms: number;
}

/** Arguments of `run_python`. */
export interface RunPythonArguments {
  /** A whole Python program. Only what it prints is returned. */
  code: string;
  /** Directory to run in; a relative one is below the working directory. Default the working directory. */
  cwd?: string | null | undefined;
  /** Seconds after which the program and everything that it started is killed. Default 120. */
  timeout?: number | null | undefined;
  /** Text for its standard input. Default none. */
  stdin?: string | null | undefined;
}

/** What came of `run_python`. */
export interface RunPythonData {
  /** what it wrote to standard output; bytes that are not UTF-8 are replaced */
  stdout: string;
  /** what it wrote to standard error */
  stderr: string;
  /** 0 when it succeeded, -1 when a signal ended it */
  exit_code: number;
  /** the signal that ended it, as in SIGKILL */
  signal?: string;
  /** it was killed because its time was over */
  timed_out: boolean;
  /** the middle of a stream that was too long was left out */
  truncated: boolean;
  /** how long it took, in milliseconds */
  duration_ms: number;
}

/** Arguments of `read_file`. */
export interface ReadFileArguments {
  /** Path of the file; a relative one is below the working directory. */
  filename: string;
  /** Most characters to return. Default 32768. */
  max_chars?: number | null | undefined;
  /** Show a file that is not text as hexadecimal digits; else what is not text is replaced. Default true. */
  binary_as_hex?: boolean | null | undefined;
  /** First line to return, counted from 1. Default 1. */
  start_line?: number | null | undefined;
  /** Last line to return. Default the last. */
  end_line?: number | null | undefined;
  /** Write its number before each line. Default false. */
  line_numbers?: boolean | null | undefined;
}

/** What came of `read_file`. */
export interface ReadFileData {
  /** as it was asked for */
  path: string;
  /** what was asked for of the file */
  content: string;
  /** the file is not text; content is hexadecimal unless that was not wanted */
  binary: boolean;
  /** bytes of the file; a lower bound where they are more than 16 MiB */
  size: number;
  /** lines of the file, 0 for a binary one */
  lines: number;
  /** there is more of what was asked for */
  truncated: boolean;
}

/** Arguments of `write_file`. */
export interface WriteFileArguments {
  /** Path of the file; a relative one is below the working directory. */
  file_path: string;
  /** Everything that the file is to hold. */
  content: string;
  /** Permission bits in octal digits, as in 0755. Default those that the file has, 0644 for a new one. */
  mode?: string | null | undefined;
}

/** What came of `write_file`. */
export interface WriteFileData {
  /** as it was given */
  path: string;
  /** how many bytes the file has now */
  bytes: number;
}

/** Arguments of `list_files`. */
export interface ListFilesArguments {
  /** Path of the directory; a relative one is below the working directory. Default the working directory. */
  directory?: string | null | undefined;
}

/** What came of `list_files`. */
export interface ListFilesData {
  /** as it was asked for */
  path: string;
  /** directories first, each part by name */
  entries: {
    name: string;
    /** file, directory, symlink or other */
    type: string;
    /** in bytes */
    size: number;
    /** permission bits in octal digits */
    mode: string;
    /** in RFC 3339 */
    modified_at: string;
    /** where a symlink points */
    target?: string;
  }[];
  /** there are more than 1000 entries */
  truncated: boolean;
}

/** Arguments of `patch_file`. */
export interface PatchFileArguments {
  /** Path of the file; a relative one is below the working directory. */
  file_path: string;
  /** First line to replace, counted from 1. */
  from_line: number;
  /** Last line to replace. One less than from_line inserts before from_line and replaces nothing. */
  to_line: number;
  /** The lines to put there; empty deletes. A missing line end is added. */
  content: string;
  /** Permission bits in octal digits, as in 0755. Default those that the file has. */
  mode?: string | null | undefined;
}

/** What came of `patch_file`. */
export interface PatchFileData {
  /** as it was given */
  path: string;
  /** how many lines went */
  replaced: number;
  /** how many lines came */
  written: number;
  /** how many lines the file has now */
  lines: number;
}

/** Arguments of `edit_file`. */
export interface EditFileArguments {
  /** Path of the file; a relative one is below the working directory. */
  file_path: string;
  /** The text to replace, exactly as it is in the file, with its spaces and line ends. It must be there once, unless replace_all is true: include as much around it as makes it unique. */
  old_string: string;
  /** The text to put there; empty deletes. */
  new_string: string;
  /** Replace it wherever it is. Default false. */
  replace_all?: boolean | null | undefined;
}

/** What came of `edit_file`. */
export interface EditFileData {
  /** as it was given */
  path: string;
  /** how often the text was replaced */
  replacements: number;
}

/** Arguments of `grep`. */
export interface GrepArguments {
  /** Regular expression in RE2 syntax, which a line must match somewhere. */
  pattern: string;
  /** Directory to search, or a file; a relative one is below the working directory. Default the working directory. */
  path?: string | null | undefined;
  /** Only files whose path matches, as in *.py or src/**\/*.go; without a slash it is about the name. Default all. */
  glob?: string | null | undefined;
  /** Take upper and lower case as the same. Default false. */
  ignore_case?: boolean | null | undefined;
  /** Most lines to return, at most 1000. Default 200. */
  max_results?: number | null | undefined;
}

/** What came of `grep`. */
export interface GrepData {
  /** by path and line */
  matches: {
    /** below the path that was searched */
    path: string;
    /** counted from 1 */
    line: number;
    /** the line, its first 500 bytes */
    text: string;
  }[];
  /** there are more matches, or files that were not searched: see skipped */
  truncated: boolean;
  /** how many files were searched */
  files: number;
  /** files left out because they are binary, larger than 4 MiB or can't be read */
  skipped: number;
}

/** Arguments of `glob`. */
export interface GlobArguments {
  /** What the path below the directory must match: * and ? within a name, ** for any directories, {a,b} and [a-z]. As in **\/*.py. */
  pattern: string;
  /** Directory to search; a relative one is below the working directory. Default the working directory. */
  path?: string | null | undefined;
}

/** What came of `glob`. */
export interface GlobData {
  /** below the directory that was searched, sorted; those of directories end in a slash */
  paths: string[];
  /** there are more than 1000, or not everything was searched */
  truncated: boolean;
}

/** Arguments by the name of the tool. */
export interface ToolArguments {
  shell: ShellArguments;
  run_python: RunPythonArguments;
  read_file: ReadFileArguments;
  write_file: WriteFileArguments;
  list_files: ListFilesArguments;
  patch_file: PatchFileArguments;
  edit_file: EditFileArguments;
  grep: GrepArguments;
  glob: GlobArguments;
}

/** What comes of a call, by the name of the tool. */
export interface ToolData {
  shell: ShellData;
  run_python: RunPythonData;
  read_file: ReadFileData;
  write_file: WriteFileData;
  list_files: ListFilesData;
  patch_file: PatchFileData;
  edit_file: EditFileData;
  grep: GrepData;
  glob: GlobData;
}

export const definitions: readonly ToolDefinition[] = [
  {
    "name": "shell",
    "title": "Run a shell command",
    "description": "Run a command with sh in the sandbox and return its stdout, stderr and exit code. Each call is a shell of its own: directories and variables are not kept from one to the next, files are. Output longer than 32 KiB loses its middle.",
    "idempotent": false,
    "parameters": {
      "type": "object",
      "properties": {
        "command": {
          "type": "string",
          "description": "The line for sh, with pipes, redirections and several commands as you like."
        },
        "timeout": {
          "type": "number",
          "description": "Seconds after which the command and everything that it started is killed. Default 120."
        },
        "cwd": {
          "type": "string",
          "description": "Directory to run in; a relative one is below the working directory. Default the working directory."
        },
        "stdin": {
          "type": "string",
          "description": "Text for its standard input. Default none."
        }
      },
      "required": [
        "command"
      ],
      "additionalProperties": false
    },
    "result": {
      "type": "object",
      "properties": {
        "stdout": {
          "type": "string",
          "description": "what it wrote to standard output; bytes that are not UTF-8 are replaced"
        },
        "stderr": {
          "type": "string",
          "description": "what it wrote to standard error"
        },
        "exit_code": {
          "type": "integer",
          "description": "0 when it succeeded, -1 when a signal ended it"
        },
        "signal": {
          "type": "string",
          "description": "the signal that ended it, as in SIGKILL"
        },
        "timed_out": {
          "type": "boolean",
          "description": "it was killed because its time was over"
        },
        "truncated": {
          "type": "boolean",
          "description": "the middle of a stream that was too long was left out"
        },
        "duration_ms": {
          "type": "number",
          "description": "how long it took, in milliseconds"
        }
      },
      "required": [
        "stdout",
        "stderr",
        "exit_code",
        "timed_out",
        "truncated",
        "duration_ms"
      ],
      "additionalProperties": false
    },
    "readOnly": false,
    "strictParameters": {
      "type": "object",
      "properties": {
        "command": {
          "type": "string",
          "description": "The line for sh, with pipes, redirections and several commands as you like."
        },
        "timeout": {
          "type": [
            "number",
            "null"
          ],
          "description": "Seconds after which the command and everything that it started is killed. Default 120."
        },
        "cwd": {
          "type": [
            "string",
            "null"
          ],
          "description": "Directory to run in; a relative one is below the working directory. Default the working directory."
        },
        "stdin": {
          "type": [
            "string",
            "null"
          ],
          "description": "Text for its standard input. Default none."
        }
      },
      "required": [
        "command",
        "timeout",
        "cwd",
        "stdin"
      ],
      "additionalProperties": false
    }
  },
  {
    "name": "run_python",
    "title": "Run Python",
    "description": "Run a Python program with python3 in the sandbox and return its stdout, stderr and exit code. Each call is a process of its own: print what you want to know. Output longer than 32 KiB loses its middle.",
    "idempotent": false,
    "parameters": {
      "type": "object",
      "properties": {
        "code": {
          "type": "string",
          "description": "A whole Python program. Only what it prints is returned."
        },
        "cwd": {
          "type": "string",
          "description": "Directory to run in; a relative one is below the working directory. Default the working directory."
        },
        "timeout": {
          "type": "number",
          "description": "Seconds after which the program and everything that it started is killed. Default 120."
        },
        "stdin": {
          "type": "string",
          "description": "Text for its standard input. Default none."
        }
      },
      "required": [
        "code"
      ],
      "additionalProperties": false
    },
    "result": {
      "type": "object",
      "properties": {
        "stdout": {
          "type": "string",
          "description": "what it wrote to standard output; bytes that are not UTF-8 are replaced"
        },
        "stderr": {
          "type": "string",
          "description": "what it wrote to standard error"
        },
        "exit_code": {
          "type": "integer",
          "description": "0 when it succeeded, -1 when a signal ended it"
        },
        "signal": {
          "type": "string",
          "description": "the signal that ended it, as in SIGKILL"
        },
        "timed_out": {
          "type": "boolean",
          "description": "it was killed because its time was over"
        },
        "truncated": {
          "type": "boolean",
          "description": "the middle of a stream that was too long was left out"
        },
        "duration_ms": {
          "type": "number",
          "description": "how long it took, in milliseconds"
        }
      },
      "required": [
        "stdout",
        "stderr",
        "exit_code",
        "timed_out",
        "truncated",
        "duration_ms"
      ],
      "additionalProperties": false
    },
    "readOnly": false,
    "strictParameters": {
      "type": "object",
      "properties": {
        "code": {
          "type": "string",
          "description": "A whole Python program. Only what it prints is returned."
        },
        "cwd": {
          "type": [
            "string",
            "null"
          ],
          "description": "Directory to run in; a relative one is below the working directory. Default the working directory."
        },
        "timeout": {
          "type": [
            "number",
            "null"
          ],
          "description": "Seconds after which the program and everything that it started is killed. Default 120."
        },
        "stdin": {
          "type": [
            "string",
            "null"
          ],
          "description": "Text for its standard input. Default none."
        }
      },
      "required": [
        "code",
        "cwd",
        "timeout",
        "stdin"
      ],
      "additionalProperties": false
    }
  },
  {
    "name": "read_file",
    "title": "Read a file",
    "description": "Return a file of the sandbox, or some lines of it. Files that are not text come as hexadecimal digits.",
    "idempotent": true,
    "parameters": {
      "type": "object",
      "properties": {
        "filename": {
          "type": "string",
          "description": "Path of the file; a relative one is below the working directory."
        },
        "max_chars": {
          "type": "integer",
          "description": "Most characters to return. Default 32768."
        },
        "binary_as_hex": {
          "type": "boolean",
          "description": "Show a file that is not text as hexadecimal digits; else what is not text is replaced. Default true."
        },
        "start_line": {
          "type": "integer",
          "description": "First line to return, counted from 1. Default 1."
        },
        "end_line": {
          "type": "integer",
          "description": "Last line to return. Default the last."
        },
        "line_numbers": {
          "type": "boolean",
          "description": "Write its number before each line. Default false."
        }
      },
      "required": [
        "filename"
      ],
      "additionalProperties": false
    },
    "result": {
      "type": "object",
      "properties": {
        "path": {
          "type": "string",
          "description": "as it was asked for"
        },
        "content": {
          "type": "string",
          "description": "what was asked for of the file"
        },
        "binary": {
          "type": "boolean",
          "description": "the file is not text; content is hexadecimal unless that was not wanted"
        },
        "size": {
          "type": "integer",
          "description": "bytes of the file; a lower bound where they are more than 16 MiB"
        },
        "lines": {
          "type": "integer",
          "description": "lines of the file, 0 for a binary one"
        },
        "truncated": {
          "type": "boolean",
          "description": "there is more of what was asked for"
        }
      },
      "required": [
        "path",
        "content",
        "binary",
        "size",
        "lines",
        "truncated"
      ],
      "additionalProperties": false
    },
    "readOnly": true,
    "strictParameters": {
      "type": "object",
      "properties": {
        "filename": {
          "type": "string",
          "description": "Path of the file; a relative one is below the working directory."
        },
        "max_chars": {
          "type": [
            "integer",
            "null"
          ],
          "description": "Most characters to return. Default 32768."
        },
        "binary_as_hex": {
          "type": [
            "boolean",
            "null"
          ],
          "description": "Show a file that is not text as hexadecimal digits; else what is not text is replaced. Default true."
        },
        "start_line": {
          "type": [
            "integer",
            "null"
          ],
          "description": "First line to return, counted from 1. Default 1."
        },
        "end_line": {
          "type": [
            "integer",
            "null"
          ],
          "description": "Last line to return. Default the last."
        },
        "line_numbers": {
          "type": [
            "boolean",
            "null"
          ],
          "description": "Write its number before each line. Default false."
        }
      },
      "required": [
        "filename",
        "max_chars",
        "binary_as_hex",
        "start_line",
        "end_line",
        "line_numbers"
      ],
      "additionalProperties": false
    }
  },
  {
    "name": "write_file",
    "title": "Write a file",
    "description": "Write a whole file in the sandbox, in place of what it held, and make the directories that lead to it. To change a part of a file, use edit_file or patch_file.",
    "idempotent": true,
    "parameters": {
      "type": "object",
      "properties": {
        "file_path": {
          "type": "string",
          "description": "Path of the file; a relative one is below the working directory."
        },
        "content": {
          "type": "string",
          "description": "Everything that the file is to hold."
        },
        "mode": {
          "type": "string",
          "description": "Permission bits in octal digits, as in 0755. Default those that the file has, 0644 for a new one.",
          "pattern": "^0?[0-7]{3}$"
        }
      },
      "required": [
        "file_path",
        "content"
      ],
      "additionalProperties": false
    },
    "result": {
      "type": "object",
      "properties": {
        "path": {
          "type": "string",
          "description": "as it was given"
        },
        "bytes": {
          "type": "integer",
          "description": "how many bytes the file has now"
        }
      },
      "required": [
        "path",
        "bytes"
      ],
      "additionalProperties": false
    },
    "readOnly": false,
    "strictParameters": {
      "type": "object",
      "properties": {
        "file_path": {
          "type": "string",
          "description": "Path of the file; a relative one is below the working directory."
        },
        "content": {
          "type": "string",
          "description": "Everything that the file is to hold."
        },
        "mode": {
          "type": [
            "string",
            "null"
          ],
          "description": "Permission bits in octal digits, as in 0755. Default those that the file has, 0644 for a new one.",
          "pattern": "^0?[0-7]{3}$"
        }
      },
      "required": [
        "file_path",
        "content",
        "mode"
      ],
      "additionalProperties": false
    }
  },
  {
    "name": "list_files",
    "title": "List a directory",
    "description": "List what one directory of the sandbox holds: mode, size, time of change and name, directories first and with a slash. To look further down, use glob.",
    "idempotent": true,
    "parameters": {
      "type": "object",
      "properties": {
        "directory": {
          "type": "string",
          "description": "Path of the directory; a relative one is below the working directory. Default the working directory."
        }
      },
      "additionalProperties": false
    },
    "result": {
      "type": "object",
      "properties": {
        "path": {
          "type": "string",
          "description": "as it was asked for"
        },
        "entries": {
          "type": "array",
          "items": {
            "type": "object",
            "properties": {
              "name": {
                "type": "string"
              },
              "type": {
                "type": "string",
                "description": "file, directory, symlink or other"
              },
              "size": {
                "type": "integer",
                "description": "in bytes"
              },
              "mode": {
                "type": "string",
                "description": "permission bits in octal digits"
              },
              "modified_at": {
                "type": "string",
                "description": "in RFC 3339"
              },
              "target": {
                "type": "string",
                "description": "where a symlink points"
              }
            },
            "required": [
              "name",
              "type",
              "size",
              "mode",
              "modified_at"
            ],
            "additionalProperties": false
          },
          "description": "directories first, each part by name"
        },
        "truncated": {
          "type": "boolean",
          "description": "there are more than 1000 entries"
        }
      },
      "required": [
        "path",
        "entries",
        "truncated"
      ],
      "additionalProperties": false
    },
    "readOnly": true,
    "strictParameters": {
      "type": "object",
      "properties": {
        "directory": {
          "type": [
            "string",
            "null"
          ],
          "description": "Path of the directory; a relative one is below the working directory. Default the working directory."
        }
      },
      "required": [
        "directory"
      ],
      "additionalProperties": false
    }
  },
  {
    "name": "patch_file",
    "title": "Replace lines of a file",
    "description": "Replace the lines from_line to to_line of a text file, both included. Look at their numbers with read_file first: a patch moves the lines behind it.",
    "idempotent": false,
    "parameters": {
      "type": "object",
      "properties": {
        "file_path": {
          "type": "string",
          "description": "Path of the file; a relative one is below the working directory."
        },
        "from_line": {
          "type": "integer",
          "description": "First line to replace, counted from 1."
        },
        "to_line": {
          "type": "integer",
          "description": "Last line to replace. One less than from_line inserts before from_line and replaces nothing."
        },
        "content": {
          "type": "string",
          "description": "The lines to put there; empty deletes. A missing line end is added."
        },
        "mode": {
          "type": "string",
          "description": "Permission bits in octal digits, as in 0755. Default those that the file has.",
          "pattern": "^0?[0-7]{3}$"
        }
      },
      "required": [
        "file_path",
        "from_line",
        "to_line",
        "content"
      ],
      "additionalProperties": false
    },
    "result": {
      "type": "object",
      "properties": {
        "path": {
          "type": "string",
          "description": "as it was given"
        },
        "replaced": {
          "type": "integer",
          "description": "how many lines went"
        },
        "written": {
          "type": "integer",
          "description": "how many lines came"
        },
        "lines": {
          "type": "integer",
          "description": "how many lines the file has now"
        }
      },
      "required": [
        "path",
        "replaced",
        "written",
        "lines"
      ],
      "additionalProperties": false
    },
    "readOnly": false,
    "strictParameters": {
      "type": "object",
      "properties": {
        "file_path": {
          "type": "string",
          "description": "Path of the file; a relative one is below the working directory."
        },
        "from_line": {
          "type": "integer",
          "description": "First line to replace, counted from 1."
        },
        "to_line": {
          "type": "integer",
          "description": "Last line to replace. One less than from_line inserts before from_line and replaces nothing."
        },
        "content": {
          "type": "string",
          "description": "The lines to put there; empty deletes. A missing line end is added."
        },
        "mode": {
          "type": [
            "string",
            "null"
          ],
          "description": "Permission bits in octal digits, as in 0755. Default those that the file has.",
          "pattern": "^0?[0-7]{3}$"
        }
      },
      "required": [
        "file_path",
        "from_line",
        "to_line",
        "content",
        "mode"
      ],
      "additionalProperties": false
    }
  },
  {
    "name": "edit_file",
    "title": "Replace text in a file",
    "description": "Replace a piece of text in a file of the sandbox, which must be there exactly so and exactly once. Nothing is changed otherwise.",
    "idempotent": false,
    "parameters": {
      "type": "object",
      "properties": {
        "file_path": {
          "type": "string",
          "description": "Path of the file; a relative one is below the working directory."
        },
        "old_string": {
          "type": "string",
          "description": "The text to replace, exactly as it is in the file, with its spaces and line ends. It must be there once, unless replace_all is true: include as much around it as makes it unique."
        },
        "new_string": {
          "type": "string",
          "description": "The text to put there; empty deletes."
        },
        "replace_all": {
          "type": "boolean",
          "description": "Replace it wherever it is. Default false."
        }
      },
      "required": [
        "file_path",
        "old_string",
        "new_string"
      ],
      "additionalProperties": false
    },
    "result": {
      "type": "object",
      "properties": {
        "path": {
          "type": "string",
          "description": "as it was given"
        },
        "replacements": {
          "type": "integer",
          "description": "how often the text was replaced"
        }
      },
      "required": [
        "path",
        "replacements"
      ],
      "additionalProperties": false
    },
    "readOnly": false,
    "strictParameters": {
      "type": "object",
      "properties": {
        "file_path": {
          "type": "string",
          "description": "Path of the file; a relative one is below the working directory."
        },
        "old_string": {
          "type": "string",
          "description": "The text to replace, exactly as it is in the file, with its spaces and line ends. It must be there once, unless replace_all is true: include as much around it as makes it unique."
        },
        "new_string": {
          "type": "string",
          "description": "The text to put there; empty deletes."
        },
        "replace_all": {
          "type": [
            "boolean",
            "null"
          ],
          "description": "Replace it wherever it is. Default false."
        }
      },
      "required": [
        "file_path",
        "old_string",
        "new_string",
        "replace_all"
      ],
      "additionalProperties": false
    }
  },
  {
    "name": "grep",
    "title": "Search in files",
    "description": "Find the lines that match a regular expression in the text files below a directory of the sandbox. Directories such as .git, node_modules, .venv and __pycache__ are left out unless path leads into them; symlinks are not followed.",
    "idempotent": true,
    "parameters": {
      "type": "object",
      "properties": {
        "pattern": {
          "type": "string",
          "description": "Regular expression in RE2 syntax, which a line must match somewhere."
        },
        "path": {
          "type": "string",
          "description": "Directory to search, or a file; a relative one is below the working directory. Default the working directory."
        },
        "glob": {
          "type": "string",
          "description": "Only files whose path matches, as in *.py or src/**/*.go; without a slash it is about the name. Default all."
        },
        "ignore_case": {
          "type": "boolean",
          "description": "Take upper and lower case as the same. Default false."
        },
        "max_results": {
          "type": "integer",
          "description": "Most lines to return, at most 1000. Default 200."
        }
      },
      "required": [
        "pattern"
      ],
      "additionalProperties": false
    },
    "result": {
      "type": "object",
      "properties": {
        "matches": {
          "type": "array",
          "items": {
            "type": "object",
            "properties": {
              "path": {
                "type": "string",
                "description": "below the path that was searched"
              },
              "line": {
                "type": "integer",
                "description": "counted from 1"
              },
              "text": {
                "type": "string",
                "description": "the line, its first 500 bytes"
              }
            },
            "required": [
              "path",
              "line",
              "text"
            ],
            "additionalProperties": false
          },
          "description": "by path and line"
        },
        "truncated": {
          "type": "boolean",
          "description": "there are more matches, or files that were not searched: see skipped"
        },
        "files": {
          "type": "integer",
          "description": "how many files were searched"
        },
        "skipped": {
          "type": "integer",
          "description": "files left out because they are binary, larger than 4 MiB or can't be read"
        }
      },
      "required": [
        "matches",
        "truncated",
        "files",
        "skipped"
      ],
      "additionalProperties": false
    },
    "readOnly": true,
    "strictParameters": {
      "type": "object",
      "properties": {
        "pattern": {
          "type": "string",
          "description": "Regular expression in RE2 syntax, which a line must match somewhere."
        },
        "path": {
          "type": [
            "string",
            "null"
          ],
          "description": "Directory to search, or a file; a relative one is below the working directory. Default the working directory."
        },
        "glob": {
          "type": [
            "string",
            "null"
          ],
          "description": "Only files whose path matches, as in *.py or src/**/*.go; without a slash it is about the name. Default all."
        },
        "ignore_case": {
          "type": [
            "boolean",
            "null"
          ],
          "description": "Take upper and lower case as the same. Default false."
        },
        "max_results": {
          "type": [
            "integer",
            "null"
          ],
          "description": "Most lines to return, at most 1000. Default 200."
        }
      },
      "required": [
        "pattern",
        "path",
        "glob",
        "ignore_case",
        "max_results"
      ],
      "additionalProperties": false
    }
  },
  {
    "name": "glob",
    "title": "Find files by name",
    "description": "Find the files and directories below a directory of the sandbox whose path matches a pattern. Directories such as .git, node_modules, .venv and __pycache__ are left out unless path leads into them; symlinks are not followed.",
    "idempotent": true,
    "parameters": {
      "type": "object",
      "properties": {
        "pattern": {
          "type": "string",
          "description": "What the path below the directory must match: * and ? within a name, ** for any directories, {a,b} and [a-z]. As in **/*.py."
        },
        "path": {
          "type": "string",
          "description": "Directory to search; a relative one is below the working directory. Default the working directory."
        }
      },
      "required": [
        "pattern"
      ],
      "additionalProperties": false
    },
    "result": {
      "type": "object",
      "properties": {
        "paths": {
          "type": "array",
          "items": {
            "type": "string"
          },
          "description": "below the directory that was searched, sorted; those of directories end in a slash"
        },
        "truncated": {
          "type": "boolean",
          "description": "there are more than 1000, or not everything was searched"
        }
      },
      "required": [
        "paths",
        "truncated"
      ],
      "additionalProperties": false
    },
    "readOnly": true,
    "strictParameters": {
      "type": "object",
      "properties": {
        "pattern": {
          "type": "string",
          "description": "What the path below the directory must match: * and ? within a name, ** for any directories, {a,b} and [a-z]. As in **/*.py."
        },
        "path": {
          "type": [
            "string",
            "null"
          ],
          "description": "Directory to search; a relative one is below the working directory. Default the working directory."
        }
      },
      "required": [
        "pattern",
        "path"
      ],
      "additionalProperties": false
    }
  }
];
