//! `syncd check`: the configuration and this host, each finding with its remedy.

use std::path::Path;

use serde::Serialize;

use crate::cli::args::Check;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Colour, Output, Style, plain};
use crate::daemon::check::{self, Finding, Grade};
use crate::daemon::config::Config;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    grade: Grade,
    findings: &'a [Finding],
}

/// Tests and prints.
pub(super) async fn check(file: &Path, args: &Check, output: &mut Output) -> Result<Exit, Failure> {
    let findings = match Config::load(file, std::env::vars_os()) {
        Ok((config, notices)) => check::check(&config, notices).await,
        Err(error) => check::mistakes(&error),
    };
    let grade = findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok);
    if args.json {
        let report = Report { grade, findings: &findings };
        let text = serde_json::to_string(&report).expect("plain fields");
        output.write(&format!("{text}\n"))?;
    } else {
        output.write(&render(&findings, output.style))?;
    }
    Ok(exit(&findings))
}

fn exit(findings: &[Finding]) -> Exit {
    let misconfigured =
        findings.iter().any(|finding| finding.check == "configuration" && finding.grade == Grade::Error);
    match findings.iter().map(|finding| finding.grade).max() {
        _ if misconfigured => Exit::Config,
        Some(Grade::Error) => Exit::Critical,
        Some(Grade::Warning) => Exit::Degraded,
        Some(Grade::Ok) | None => Exit::Ok,
    }
}

fn render(findings: &[Finding], style: Style) -> String {
    let count = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let (errors, warnings) = (count(Grade::Error), count(Grade::Warning));
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut text = match (errors, warnings) {
        (0, 0) => format!("{}: {} findings\n", style.paint("all is in order", Colour::Good), findings.len()),
        (0, _) => format!("{}\n", style.paint(&plural(warnings, "warning"), Colour::Warning)),
        _ => {
            let words = format!("{}, {}", plural(errors, "error"), plural(warnings, "warning"));
            format!("{}\n", style.paint(&words, Colour::Bad))
        }
    };
    for finding in findings {
        let (word, colour) = match finding.grade {
            Grade::Ok => ("ok     ", Colour::Good),
            Grade::Warning => ("warning", Colour::Warning),
            Grade::Error => ("error  ", Colour::Bad),
        };
        let (subject, message) = (plain(&finding.subject), plain(&finding.message));
        text += &format!("{} {} {subject}: {message}\n", style.paint(word, colour), finding.check);
        if let Some(remedy) = &finding.remedy {
            text += &format!("        remedy: {}\n", plain(remedy));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(grade: Grade, check: &'static str) -> Finding {
        let remedy = (grade != Grade::Ok).then(|| "mend it".to_owned());
        Finding { grade, check, subject: "it".into(), message: "is so".into(), remedy }
    }

    #[test]
    fn the_worst_decides_and_configuration_before_all() {
        let (ok, warning) = (finding(Grade::Ok, "port"), finding(Grade::Warning, "peer"));
        let (error, mistake) = (finding(Grade::Error, "port"), finding(Grade::Error, "configuration"));
        assert_eq!(exit(std::slice::from_ref(&ok)), Exit::Ok);
        assert_eq!(exit(&[warning.clone(), ok.clone()]), Exit::Degraded);
        assert_eq!(exit(&[error.clone(), warning.clone()]), Exit::Critical);
        assert_eq!(exit(&[mistake, error.clone()]), Exit::Config);
        let text = render(&[ok, warning, error], Style::default());
        assert!(text.starts_with("1 error, 1 warning\nok      port it: is so\n"), "{text}");
        assert!(text.ends_with("error   port it: is so\n        remedy: mend it\n"), "{text}");
    }
}
