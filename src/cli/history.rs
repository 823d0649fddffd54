//! `syncd history`: past generations.

use crate::cli::args::History;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Output, plain};
use crate::cli::table::{Cell, Table};
use crate::daemon::status::HistoryRow;

/// Paths shown per generation; the JSON has more.
const PATHS_SHOWN: usize = 3;

/// Prints the newest generations.
pub(super) async fn history(client: &Client, args: &History, output: &mut Output) -> Result<Exit, Failure> {
    let (rows, json) = client.get::<Vec<HistoryRow>>(&format!("/history?n={}", args.count)).await?;
    if args.json {
        output.write(&format!("{}\n", String::from_utf8_lossy(&json).trim_end()))?;
    } else if rows.is_empty() {
        output.write("nothing was published yet\n")?;
    } else {
        let mut table =
            Table::new(&["GENERATION", "COMMITTED", "AUTHOR", "EPOCH", "NEW", "CHANGED", "GONE", "PATHS"]);
        for row in &rows {
            table.row(vec![
                Cell::number(Some(row.number)),
                Cell::word(&row.committed_at),
                Cell::word(&row.author),
                Cell::number(Some(row.epoch)),
                Cell::number(Some(row.added)),
                Cell::number(Some(row.changed)),
                Cell::number(Some(row.removed)),
                Cell::word(paths(row)),
            ]);
        }
        output.write(&table.render(output.style))?;
    }
    Ok(Exit::Ok)
}

fn paths(row: &HistoryRow) -> String {
    let shown = row.paths.iter().take(PATHS_SHOWN).map(|path| plain(path)).collect::<Vec<_>>().join(" ");
    let all = usize::try_from(row.added + row.changed + row.removed).unwrap_or(usize::MAX);
    match all.saturating_sub(PATHS_SHOWN.min(row.paths.len())) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
