// A MicroPython REPL on standard input and output: what a board shows on its serial line.
// A soft reset (Ctrl-D) begins a new REPL; machine.reset() is only told, there is no machine.
const { loadMicroPython } = await import(process.argv[2]);
const board = await loadMicroPython({
    linebuffer: false,
    stdout: (data) => process.stdout.write(Buffer.from(data)),
});
board.FS.writeFile('/machine.py', 'def reset():\n    print("machine.reset()")\n');
board.replInit();
process.stdin.on('data', (data) => {
    for (const character of data) {
        if (board.replProcessChar(character)) {
            process.stdout.write('MPY: soft reboot\r\n');
            board.replInit();
        }
    }
});
