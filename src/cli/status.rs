//! `syncd status`: the cluster in words, in JSON, again and again, or as a barrier.

use std::time::Duration;

use tokio::time::Instant;

use crate::cli::args::Status;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Output, Style};
use crate::cli::portrait::render;
use crate::cli::wait;
use crate::daemon::status::StatusReport;
use crate::daemon::summary::span;
use crate::model::unix_ms;

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Does what the arguments say.
pub(super) async fn status(client: &Client, args: &Status, output: &mut Output) -> Result<Exit, Failure> {
    if args.watch {
        return watch(client, output).await;
    }
    if args.wait {
        return wait::wait(client, args, output).await;
    }
    let (report, json) = client.get::<StatusReport>("/status").await?;
    if args.json {
        output.write(&format!("{}\n", String::from_utf8_lossy(&json).trim_end()))?;
    } else {
        output.write(&render(&report, unix_ms(), output.style))?;
    }
    Ok(report.health.into())
}

/// Prints until interrupted; then exits with the last health.
async fn watch(client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut last: Option<(StatusReport, Instant)> = None;
    loop {
        // The window may have been made larger or smaller.
        let style = Output::stdout().style;
        let (text, exit) = match client.get::<StatusReport>("/status").await {
            Ok((report, _)) => {
                let told = (render(&report, unix_ms(), style), report.health.into());
                last = Some((report, Instant::now()));
                told
            }
            Err(error) => {
                let stale = last.as_ref().map_or(String::new(), |(report, at)| {
                    let age = span(at.elapsed().as_secs_f64());
                    format!("\nthe last answer, {age} old:\n\n{}", render(report, unix_ms(), style))
                });
                (format!("{error}\n{stale}"), Exit::NoDaemon)
            }
        };
        output.write(&frame(&text, style))?;
        tokio::select! {
            _ = &mut interrupted => return Ok(exit),
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
    }
}

/// `text` over what stood there before, without a flicker, and no longer than the window; plain, with a gap after it,
/// where nobody looks on.
fn frame(text: &str, style: Style) -> String {
    if !style.terminal {
        return format!("{text}\n");
    }
    let lines: Vec<&str> = text.lines().collect();
    let room = style.height.unwrap_or(usize::MAX).saturating_sub(1).max(1);
    let mut framed = String::from("\x1b[H");
    let shown = if lines.len() > room { room - 1 } else { lines.len() };
    for line in &lines[..shown] {
        framed.push_str(line);
        framed.push_str("\x1b[K\n");
    }
    if shown < lines.len() {
        framed.push_str(&format!("... {} more lines: `syncd status`\x1b[K\n", lines.len() - shown));
    }
    framed + "\x1b[J"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_window() {
        let plain = Style::default();
        assert_eq!(frame("a\nb\n", plain), "a\nb\n\n");
        let window = |height| Style { terminal: true, height: Some(height), ..plain };
        assert_eq!(frame("a\nb\n", window(3)), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        let cut = frame("a\nb\nc\n", window(3));
        assert_eq!(cut, "\x1b[Ha\x1b[K\n... 2 more lines: `syncd status`\x1b[K\n\x1b[J");
        assert_eq!(cut.matches('\n').count(), 2);
    }
}
