"""The tools as methods. Made of api/tools.json by scripts/definitions.py; not to be edited."""

from __future__ import annotations

from .._tools import ToolResult


class ToolCalls:
    """What Tools inherits its methods from."""

    def _call(self, name: str, **arguments: object) -> ToolResult:
        raise NotImplementedError

    def shell(
        self, command: str, timeout: float | None = None, cwd: str | None = None, stdin: str | None = None
    ) -> ToolResult:
        """Run a command with sh in the sandbox and return its stdout, stderr and exit code. Each call
        is a shell of its own: directories and variables are not kept from one to the next, files
        are. Output longer than 32 KiB loses its middle.

        Args:
            command: The line for sh, with pipes, redirections and several commands as you like.
            timeout: Seconds after which the command and everything that it started is killed.
                Default 120.
            cwd: Directory to run in; a relative one is below the working directory. Default the
                working directory.
            stdin: Text for its standard input. Default none.
        """
        return self._call("shell", command=command, timeout=timeout, cwd=cwd, stdin=stdin)

    def run_python(
        self, code: str, cwd: str | None = None, timeout: float | None = None, stdin: str | None = None
    ) -> ToolResult:
        """Run a Python program with python3 in the sandbox and return its stdout, stderr and exit
        code. Each call is a process of its own: print what you want to know. Output longer than 32
        KiB loses its middle.

        Args:
            code: A whole Python program. Only what it prints is returned.
            cwd: Directory to run in; a relative one is below the working directory. Default the
                working directory.
            timeout: Seconds after which the program and everything that it started is killed.
                Default 120.
            stdin: Text for its standard input. Default none.
        """
        return self._call("run_python", code=code, cwd=cwd, timeout=timeout, stdin=stdin)

    def read_file(
        self,
        filename: str,
        max_chars: int | None = None,
        binary_as_hex: bool | None = None,
        start_line: int | None = None,
        end_line: int | None = None,
        line_numbers: bool | None = None,
    ) -> ToolResult:
        """Return a file of the sandbox, or some lines of it. Files that are not text come as
        hexadecimal digits.

        Args:
            filename: Path of the file; a relative one is below the working directory.
            max_chars: Most characters to return. Default 32768.
            binary_as_hex: Show a file that is not text as hexadecimal digits; else what is not text
                is replaced. Default true.
            start_line: First line to return, counted from 1. Default 1.
            end_line: Last line to return. Default the last.
            line_numbers: Write its number before each line. Default false.
        """
        return self._call(
            "read_file",
            filename=filename,
            max_chars=max_chars,
            binary_as_hex=binary_as_hex,
            start_line=start_line,
            end_line=end_line,
            line_numbers=line_numbers,
        )

    def write_file(self, file_path: str, content: str, mode: str | None = None) -> ToolResult:
        """Write a whole file in the sandbox, in place of what it held, and make the directories that
        lead to it. To change a part of a file, use edit_file or patch_file.

        Args:
            file_path: Path of the file; a relative one is below the working directory.
            content: Everything that the file is to hold.
            mode: Permission bits in octal digits, as in 0755. Default those that the file has, 0644
                for a new one.
        """
        return self._call("write_file", file_path=file_path, content=content, mode=mode)

    def list_files(self, directory: str | None = None) -> ToolResult:
        """List what one directory of the sandbox holds: mode, size, time of change and name,
        directories first and with a slash. To look further down, use glob.

        Args:
            directory: Path of the directory; a relative one is below the working directory. Default
                the working directory.
        """
        return self._call("list_files", directory=directory)

    def patch_file(
        self, file_path: str, from_line: int, to_line: int, content: str, mode: str | None = None
    ) -> ToolResult:
        """Replace the lines from_line to to_line of a text file, both included. Look at their numbers
        with read_file first: a patch moves the lines behind it.

        Args:
            file_path: Path of the file; a relative one is below the working directory.
            from_line: First line to replace, counted from 1.
            to_line: Last line to replace. One less than from_line inserts before from_line and
                replaces nothing.
            content: The lines to put there; empty deletes. A missing line end is added.
            mode: Permission bits in octal digits, as in 0755. Default those that the file has.
        """
        return self._call(
            "patch_file", file_path=file_path, from_line=from_line, to_line=to_line, content=content, mode=mode
        )

    def edit_file(
        self, file_path: str, old_string: str, new_string: str, replace_all: bool | None = None
    ) -> ToolResult:
        """Replace a piece of text in a file of the sandbox, which must be there exactly so and exactly
        once. Nothing is changed otherwise.

        Args:
            file_path: Path of the file; a relative one is below the working directory.
            old_string: The text to replace, exactly as it is in the file, with its spaces and line
                ends. It must be there once, unless replace_all is true: include as much around it
                as makes it unique.
            new_string: The text to put there; empty deletes.
            replace_all: Replace it wherever it is. Default false.
        """
        return self._call(
            "edit_file", file_path=file_path, old_string=old_string, new_string=new_string, replace_all=replace_all
        )

    def grep(
        self,
        pattern: str,
        path: str | None = None,
        glob: str | None = None,
        ignore_case: bool | None = None,
        max_results: int | None = None,
    ) -> ToolResult:
        """Find the lines that match a regular expression in the text files below a directory of the
        sandbox. Directories such as .git, node_modules, .venv and __pycache__ are left out unless
        path leads into them; symlinks are not followed.

        Args:
            pattern: Regular expression in RE2 syntax, which a line must match somewhere.
            path: Directory to search, or a file; a relative one is below the working directory.
                Default the working directory.
            glob: Only files whose path matches, as in *.py or src/**/*.go; without a slash it is
                about the name. Default all.
            ignore_case: Take upper and lower case as the same. Default false.
            max_results: Most lines to return, at most 1000. Default 200.
        """
        return self._call(
            "grep", pattern=pattern, path=path, glob=glob, ignore_case=ignore_case, max_results=max_results
        )

    def glob(self, pattern: str, path: str | None = None) -> ToolResult:
        """Find the files and directories below a directory of the sandbox whose path matches a
        pattern. Directories such as .git, node_modules, .venv and __pycache__ are left out unless
        path leads into them; symlinks are not followed.

        Args:
            pattern: What the path below the directory must match: * and ? within a name, ** for any
                directories, {a,b} and [a-z]. As in **/*.py.
            path: Directory to search; a relative one is below the working directory. Default the
                working directory.
        """
        return self._call("glob", pattern=pattern, path=path)
