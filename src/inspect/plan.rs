//! What comes next on this node, in the order in which it will be made.

use std::collections::BTreeMap;

use crate::inspect::diff::ROWS_MAX;
use crate::inspect::told::{Action, IntentRow, Side, Standing, Told};
use crate::model::{Edit, Intent, Place, Stands};
use crate::plan;

/// The rows of an outlook: due, waiting and held ones each in apply order.
pub(super) fn rows(intents: Vec<Intent>) -> Vec<Told> {
    let stands: BTreeMap<Place, Stands> =
        intents.iter().map(|intent| (intent.edit.place.clone(), intent.stands)).collect();
    let ordered = plan::order(intents.into_iter().map(|intent| intent.edit).collect());
    let mut rows: Vec<IntentRow> =
        ordered.iter().filter_map(|edit| Some(row(edit, *stands.get(&edit.place)?))).collect();
    rows.sort_by_key(|row| match row.stands {
        Standing::Due => 0,
        Standing::Waiting => 1,
        Standing::Held => 2,
    });
    rows.truncate(ROWS_MAX);
    rows.into_iter().map(Told::Intent).collect()
}

fn row(edit: &Edit, stands: Stands) -> IntentRow {
    let action = match (&edit.old, &edit.new) {
        (None, _) => Action::Create,
        (_, None) => Action::Delete,
        (Some(old), Some(new)) if old.same_content(new) => Action::Mode,
        _ => Action::Update,
    };
    let (stands, why) = match stands {
        Stands::Due => (Standing::Due, None),
        Stands::Waits(why) => (Standing::Waiting, Some(why.to_owned())),
        Stands::Held(code) => (Standing::Held, Some(code.to_owned())),
    };
    IntentRow {
        root: edit.place.root.to_string(),
        path: edit.place.path.to_string(),
        action,
        stands,
        why,
        from: edit.old.as_ref().map(|entry| Side::of(entry, None)),
        to: edit.new.as_ref().map(|entry| Side::of(entry, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ArtifactPath, ContentHash, Entry, RootName};

    #[test]
    fn what_is_due_comes_first_and_each_part_in_apply_order() {
        let intent = |path: &str, deletes: bool, stands| {
            let place = Place { root: RootName::new("r"), path: ArtifactPath::new(path.as_bytes()).unwrap() };
            let file = Some(Entry::File { mode: 0o644, size: 1, hash: ContentHash::of(b"1") });
            let (old, new) = if deletes { (file, None) } else { (None, file) };
            Intent { edit: Edit { place, old, new }, stands }
        };
        let rows = rows(vec![
            intent("default/api/a.xml", false, Stands::Due),
            intent("default/endpoints/old.xml", true, Stands::Held("mass-delete")),
            intent("default/endpoints/e.xml", false, Stands::Due),
            intent("default/api/b.xml", false, Stands::Waits("for quiet")),
        ]);
        let paths: Vec<String> = rows
            .iter()
            .map(|row| match row {
                Told::Intent(row) => format!("{:?} {}", row.stands, row.path),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(
            paths,
            [
                "Due default/endpoints/e.xml",
                "Due default/api/a.xml",
                "Waiting default/api/b.xml",
                "Held default/endpoints/old.xml"
            ]
        );
    }
}
