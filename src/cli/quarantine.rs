//! `syncd quarantine`: local content that was replaced.

use crate::cli::args::QuarantineList;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::table::{Cell, Table};
use crate::daemon::status::QuarantineRow;

/// Prints what is kept on this node.
pub(super) async fn list(
    client: &Client,
    args: &QuarantineList,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let (rows, json) = client.get::<Vec<QuarantineRow>>("/quarantine").await?;
    if args.json {
        output.write(&format!("{}\n", String::from_utf8_lossy(&json).trim_end()))?;
    } else if rows.is_empty() {
        output.write("nothing is in quarantine on this node\n")?;
    } else {
        let mut table = Table::new(&["ID", "SINCE", "ROOT", "PATH", "BYTES", "WHY", "GENERATION"]);
        for row in &rows {
            table.row(vec![
                Cell::word(&row.id),
                Cell::word(&row.at),
                Cell::word(&row.root),
                Cell::word(&row.path),
                Cell::number(row.size),
                Cell::word(&row.why),
                Cell::number(row.generation),
            ]);
        }
        output.write(&table.render(output.style))?;
        output.write("each copy lies as `content` in the folder quarantine/ID of the data folder\n")?;
    }
    Ok(Exit::Ok)
}
