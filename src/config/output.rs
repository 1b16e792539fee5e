//! What the programs say, to whoever may have stopped listening: `print!` and `eprint!` panic then.

use std::io::{self, ErrorKind, Write};

/// Prints a text as it is. Who closed standard output has seen enough: that is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// One line on standard error. If nobody reads it, there is nobody to tell so.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
