//! New times for files whose content stays, so that the gateway loads them again: after a version that it rejected, and
//! when a person orders it. The only writes without new content.

use std::collections::BTreeMap;

use crate::apply::ApplyError;
use crate::apply::reconcile::Site;
use crate::model::{FileTime, Place, RootName};
use crate::plan;
use crate::store::Store;
use crate::tree::Kind;

/// The time that the file at `place` gets next: not before `wanted`, and in a whole second after all that its readers
/// have seen. None when no file is there.
pub(super) fn next_time(
    store: &Store,
    sites: &BTreeMap<RootName, Site>,
    place: &Place,
    wanted: FileTime,
) -> Result<Option<FileTime>, ApplyError> {
    let Some(site) = sites.get(&place.root) else { return Ok(None) };
    let stat = site.root.stat(&place.path).map_err(ApplyError::at(place))?;
    let Some(stat) = stat.filter(|stat| stat.kind == Kind::File) else { return Ok(None) };
    let last = store.last_second(place)?.into_iter().chain([stat.mtime.seconds]).max();
    Ok(Some(plan::mtime_for(wanted, last)))
}

/// Gives the files these times, and notes that their readers have seen them, before they do. A file that is gone, or
/// has this time or a later one, is passed over: what was begun may be repeated. Blocks on the disk.
pub(super) fn bump(
    store: &Store,
    sites: &BTreeMap<RootName, Site>,
    times: &[(Place, FileTime)],
) -> Result<(), ApplyError> {
    let seconds: Vec<(Place, i64)> =
        times.iter().map(|(place, time)| (place.clone(), time.seconds)).collect();
    store.note_seconds(&seconds)?;
    for (place, time) in times {
        let Some(site) = sites.get(&place.root) else { continue };
        let error = ApplyError::at(place);
        let stat = site.root.stat(&place.path).map_err(error)?;
        if stat.is_some_and(|stat| stat.kind == Kind::File && stat.mtime.seconds < time.seconds) {
            site.root.set_times(&place.path, *time).map_err(error)?;
            tracing::info!(%place, "the file got a new time, so that the gateway loads it again");
        }
    }
    Ok(())
}
