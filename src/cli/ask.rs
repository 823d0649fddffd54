//! Asking a person before something is done that cannot be taken back.

use std::io::{BufRead, IsTerminal};

use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// Whether the person at the terminal types `yes`; with `yes` given on the command line, at once.
///
/// # Errors
/// When there is nobody to ask: a script says what it means.
pub(super) fn agreed(output: &mut Output, yes: bool, question: &str) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "this asks before it acts, and standard input is no terminal; remedy: give --yes to agree beforehand",
        ));
    }
    output.write(&format!("{question} Type yes to go on: "))?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
