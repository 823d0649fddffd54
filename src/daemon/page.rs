//! The status page for people: the status report as plain HTML, nothing that is not in it.

use std::fmt::Write;

use crate::daemon::status::{Health, StatusReport};
use crate::daemon::summary::sentence;
use crate::model::unix_ms;

/// One page, refreshed by the browser every two seconds.
#[must_use]
pub fn page(report: &StatusReport) -> String {
    let health = match report.health {
        Health::Ok => ("ok", "#1a7f37"),
        Health::Degraded => ("degraded", "#9a6700"),
        Health::Critical => ("critical", "#cf222e"),
    };
    let told = sentence(report, unix_ms());
    let mut rows = String::new();
    for node in &report.nodes {
        row(
            &mut rows,
            &[
                node.name.clone(),
                node.address.clone(),
                node.role.clone(),
                serde_json::to_value(node.state)
                    .ok()
                    .and_then(|v| v.as_str().map(String::from))
                    .unwrap_or_default(),
                node.generation.map(|number| number.to_string()).unwrap_or_default(),
                node.lag_seconds.map(|lag| format!("{lag:.1} s")).unwrap_or_default(),
                node.last_seen_seconds.map(|age| format!("{age:.1} s ago")).unwrap_or_default(),
                node.quarantined.map(|count| count.to_string()).unwrap_or_default(),
            ],
        );
    }
    let mut problems = String::new();
    for problem in &report.problems {
        row(
            &mut problems,
            &[
                problem.code.clone(),
                problem.node.clone().unwrap_or_default(),
                problem.path.clone().unwrap_or_default(),
                problem.message.clone(),
                problem.remedy.clone(),
            ],
        );
    }
    let table = |heads: &[&str], rows: &str| {
        let heads: String = heads.iter().map(|head| format!("<th>{head}</th>")).collect();
        format!("<table><tr>{heads}</tr>{rows}</table>")
    };
    let nodes =
        table(&["node", "address", "role", "state", "generation", "lag", "heard", "quarantine"], &rows);
    let problems = if problems.is_empty() {
        "<p>No problems.</p>".to_owned()
    } else {
        table(&["problem", "node", "path", "what", "remedy"], &problems)
    };
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\">\
         <title>{cluster}: {word}</title><style>body{{font:15px system-ui;margin:2rem}}table{{border-collapse:collapse;\
         margin:1rem 0}}td,th{{border:1px solid #ccc;padding:.3rem .6rem;text-align:left}}h1 b{{color:{colour}}}</style>\
         <h1>{cluster}: <b>{verdict}</b></h1><p>{reason}; as {node} sees it at {at}.</p>{nodes}{problems}</html>",
        cluster = escape(&report.cluster),
        word = health.0,
        colour = health.1,
        verdict = told.verdict,
        reason = escape(&told.reason),
        node = escape(&report.node),
        at = escape(report.at.as_deref().unwrap_or("an unknown time")),
    )
}

fn row(text: &mut String, cells: &[String]) {
    text.push_str("<tr>");
    for cell in cells {
        write!(text, "<td>{}</td>", escape(cell)).expect("writing to a string can't fail");
    }
    text.push_str("</tr>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn a_file_name_is_no_markup() {
        assert_eq!(escape("<script>&\""), "&lt;script&gt;&amp;&quot;");
    }
}
