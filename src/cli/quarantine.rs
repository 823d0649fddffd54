//! `syncd quarantine`: local content that was replaced.

use similar::TextDiff;

use crate::cli::args::{QuarantineDrop, QuarantineList, QuarantineRestore, QuarantineShow};
use crate::cli::ask::agreed;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Colour, Output, Style, plain};
use crate::cli::table::{Cell, Table};
use crate::daemon::restoring::{QuarantineShown, RestoreOrder, Restored};
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
        output.write("see `syncd quarantine show ID` and `syncd quarantine restore ID`\n")?;
    }
    Ok(Exit::Ok)
}

/// What is longer is not printed between other lines.
const PRINTED_BYTES_MAX: usize = 256 << 10;

/// Prints one version.
pub(super) async fn show(
    client: &Client,
    args: &QuarantineShow,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let path = format!("/quarantine/{}", segment(&args.id)?);
    if args.content {
        let content = client.bytes(&format!("{path}/content")).await?;
        output.write_bytes(&content)?;
        return Ok(Exit::Ok);
    }
    let (shown, json) = client.get::<QuarantineShown>(&path).await?;
    if args.json {
        output.write(&format!("{}\n", String::from_utf8_lossy(&json).trim_end()))?;
        return Ok(Exit::Ok);
    }
    output.write(&head_of(&shown))?;
    if shown.target.is_some() {
        return Ok(Exit::Ok);
    }
    let content = client.bytes(&format!("{path}/content")).await?;
    if args.diff {
        let published = client.bytes(&format!("{path}/published")).await?;
        output.write(&difference(&published, &content, output.style))?;
        return Ok(Exit::Ok);
    }
    match std::str::from_utf8(&content) {
        Ok(text) if text.len() <= PRINTED_BYTES_MAX => {
            let lines: Vec<String> = text.lines().map(|line| plain_line(line) + "\n").collect();
            output.write(&format!("\n{}", lines.concat()))?;
        }
        Ok(_) => output.write("\nits content is long: --content prints it\n")?,
        Err(_) => output.write("\nits content is no text: --content prints it as it is\n")?,
    }
    Ok(Exit::Ok)
}

/// Removes one version for good.
pub(super) async fn drop_one(
    client: &Client,
    args: &QuarantineDrop,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let path = format!("/quarantine/{}", segment(&args.id)?);
    let (shown, _) = client.get::<QuarantineShown>(&path).await?;
    output.write(&head_of(&shown))?;
    if !agreed(output, args.yes, "Remove this version for good?")? {
        output.write("Nothing was removed.\n")?;
        return Ok(Exit::Degraded);
    }
    // By its whole name: another one that begins so may have come since.
    let path = format!("/quarantine/{}/drop", segment(&shown.row.id)?);
    let row: QuarantineRow = client.post(&path, &serde_json::Value::Null).await?;
    output.write(&format!("removed {} from quarantine\n", plain(&row.id)))?;
    Ok(Exit::Ok)
}

/// Has one version published.
pub(super) async fn restore(
    client: &Client,
    args: &QuarantineRestore,
    output: &mut Output,
) -> Result<Exit, Failure> {
    segment(&args.id)?;
    let order = RestoreOrder { id: args.id.clone(), path: args.path.clone(), over_newer: args.over_newer };
    let mut exit = Exit::Ok;
    client
        .follow("/restore", &order, |restored: Restored| {
            let Restored { manager, place, generation } = restored;
            let (manager, place) = (plain(&manager), plain(&place));
            let text = match generation {
                Some(generation) => {
                    format!("{place} is restored: {manager} published it as generation {generation}\n")
                }
                None => {
                    exit = Exit::Degraded;
                    format!(
                        "{place} is written into the folder of {manager}, but was not published in time, or did not \
                         arrive here; remedy: `syncd status` says what keeps it\n"
                    )
                }
            };
            Ok(output.write(&text)?)
        })
        .await?;
    Ok(exit)
}

/// An id is the name of a folder; anything else would be another request.
fn segment(id: &str) -> Result<&str, Failure> {
    let plain = !id.is_empty() && id.chars().all(|char| char.is_ascii_alphanumeric() || char == '-');
    plain.then_some(id).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("{id:?} is no id of a version; remedy: see `syncd quarantine list`"),
        )
    })
}

fn head_of(shown: &QuarantineShown) -> String {
    let row = &shown.row;
    let unknown = || "unknown".to_owned();
    let published = match (&shown.published, &row.hash) {
        (Some(published), Some(hash)) if published == hash => "the same content",
        (Some(_), _) => "another content; see --diff",
        (None, _) => "no file there",
    };
    let mut lines = vec![
        ("version", row.id.clone()),
        ("was", format!("{}:{} on {}", row.root, row.path, row.node)),
        ("put aside", row.at.clone()),
        ("why", row.why.clone()),
        ("generation", row.generation.map_or_else(unknown, |number| number.to_string())),
        ("bytes", row.size.map_or_else(unknown, |size| size.to_string())),
        ("mode", row.mode.clone().unwrap_or_else(unknown)),
        ("owner", format!("{}:{}", row.uid, row.gid)),
        ("written", row.mtime.clone().unwrap_or_else(unknown)),
        ("published", published.to_owned()),
        ("lies in", shown.content.display().to_string()),
    ];
    if let Some(target) = &shown.target {
        lines.push(("link to", target.clone()));
    }
    lines.iter().map(|(name, value)| format!("{name:10}  {}\n", plain(value))).collect()
}

/// What leads from the published version to the one that is kept, line by line.
fn difference(published: &[u8], kept: &[u8], style: Style) -> String {
    if published == kept {
        return "\nno difference from the published version\n".to_owned();
    }
    let (Ok(before), Ok(after)) = (std::str::from_utf8(published), std::str::from_utf8(kept)) else {
        return "\nnot both are text\n".to_owned();
    };
    let diff = TextDiff::configure().timeout(std::time::Duration::from_secs(2)).diff_lines(before, after);
    let text = diff.unified_diff().context_radius(3).header("published", "in quarantine").to_string();
    let painted = text.lines().map(|line| {
        let colour = match line.as_bytes().first() {
            Some(b'+') => Colour::Good,
            Some(b'-') => Colour::Bad,
            _ => Colour::Plain,
        };
        style.paint(&plain_line(line), colour) + "\n"
    });
    "\n".to_owned() + &painted.collect::<String>()
}

/// As [`plain`], tabs left as they are.
fn plain_line(line: &str) -> String {
    line.split('\t').map(plain).collect::<Vec<_>>().join("\t")
}
