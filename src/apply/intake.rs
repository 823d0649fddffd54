//! Receives the body of a parcel into the store and pins its generation; the same for what is staged here and for
//! what is fetched from a peer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::Status;

use crate::apply::own_files::OwnFiles;
use crate::delta::{self, Base, ChunkReader, ParcelError};
use crate::model::{Change, Forest, Place, Rules};
use crate::store::{Batch, Pinned, Store, StoreError};
use crate::wire::Header;
use crate::wire::proto::{Parcel, parcel::Part};

/// Longest silence between two messages of a parcel.
const SILENCE: Duration = Duration::from_secs(10);
/// Data messages that wait to be decoded.
const WAITING: usize = 4;

/// A parcel that was not taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum IntakeError {
    /// The stream broke the protocol or its compression.
    #[error("the parcel was not understood")]
    Parcel(#[from] ParcelError),
    /// What came is not what the header says, or does not fit to what is here.
    #[error("the parcel was not stored")]
    Store(#[from] StoreError),
    /// The receiving thread ended in a way that should be impossible.
    #[error("receiving the parcel failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Takes the data messages that follow `header`; `own` are the files whose signatures went with the request.
///
/// # Cancel safety
/// Dropping the future ends the stream: nothing is pinned then.
pub(super) async fn receive(
    store: &Store,
    header: Header,
    own: Arc<OwnFiles>,
    parcels: impl Stream<Item = Result<Parcel, Status>> + Unpin,
) -> Result<Pinned, IntakeError> {
    let _receiving = store.meter().begin("receiving", None, Some(header.content_bytes));
    let store = store.clone();
    feed(parcels, move |input| decode(&store, header, &own, input)).await
}

/// Takes the contents that follow `header` into the store without a pin, and says what changes they belong to.
pub(super) async fn receive_contents(
    store: &Store,
    header: Header,
    parcels: impl Stream<Item = Result<Parcel, Status>> + Unpin,
) -> Result<Vec<Change>, IntakeError> {
    let store = store.clone();
    feed(parcels, move |input| {
        let mut batch = store.batch();
        let (forest, _, changes) = read(&store, &mut batch, &header, &OwnFiles::default(), input)?;
        batch.sync()?;
        let (number, digest) = (header.generation.number, header.generation.digest);
        let made = forest.with(changes.iter().map(|change| (change.place.clone(), change.entry.clone())));
        // What proves the hashes of all that was not sent as it is.
        match made {
            Ok(made) if made.digest() == digest => Ok(changes),
            _ => Err(StoreError::WrongDigest { number, digest }.into()),
        }
    })
    .await
}

type Pieces = ChunkReader<Box<dyn FnMut() -> io::Result<Option<Bytes>>>>;

/// Hands the data messages to `work`, which reads them on a thread of its own.
async fn feed<T: Send + 'static>(
    mut parcels: impl Stream<Item = Result<Parcel, Status>> + Unpin,
    work: impl FnOnce(Pieces) -> Result<T, IntakeError> + Send + 'static,
) -> Result<T, IntakeError> {
    let (sender, mut pieces) = mpsc::channel::<io::Result<Bytes>>(WAITING);
    let decoding = tokio::task::spawn_blocking(move || {
        work(ChunkReader::new(Box::new(move || pieces.blocking_recv().transpose())))
    });
    loop {
        let piece = match tokio::time::timeout(SILENCE, parcels.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(Parcel { part: Some(Part::Data(piece)) }))) => Ok(piece),
            Ok(Some(Ok(_))) => Err(io::Error::new(io::ErrorKind::InvalidData, "a second header came")),
            Ok(Some(Err(status))) => Err(io::Error::other(status)),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the sender fell silent")),
        };
        let last = piece.is_err();
        // An error means that decoding ended: its own result says why.
        if sender.send(piece).await.is_err() || last {
            break;
        }
    }
    drop(sender);
    decoding.await?
}

fn decode(
    store: &Store,
    header: Header,
    own: &OwnFiles,
    input: impl io::Read,
) -> Result<Pinned, IntakeError> {
    let mut batch = store.batch();
    let (_, rules, changes) = read(store, &mut batch, &header, own, input)?;
    let generation = header.generation.number;
    tracing::debug!(target: "syncd::step", generation, "parcel decoded");
    let pinned = batch.pin(&header.proposal(rules, changes))?;
    tracing::debug!(target: "syncd::step", generation, "pinned");
    Ok(pinned)
}

/// Puts the contents into `batch`. What the changes start from under the rules in force, those rules, and the changes.
fn read(
    store: &Store,
    batch: &mut Batch<'_>,
    header: &Header,
    own: &OwnFiles,
    input: impl io::Read,
) -> Result<(Forest, Rules, Vec<Change>), IntakeError> {
    let (number, base) = (header.generation.number, header.base);
    let basis = store.basis(base, header.base_digest.as_ref())?;
    let basis = basis.ok_or(StoreError::UnknownBase { number, base })?;
    let rules = header.rules.clone().unwrap_or_else(|| basis.rules.clone());
    let forest = basis.forest.clone().under(&rules);
    let time = |place: &Place| basis.time(place).map_err(io::Error::other);
    let changes = delta::decode(
        input,
        header,
        &Base { forest: &forest, time: &time },
        |hash| Ok::<_, IntakeError>(store.open_blob(hash)?),
        |place| Ok(own.read(place)?),
        |hash, size, content| Ok(batch.put(hash, size, content).map(|_| ())?),
    )?;
    Ok((forest, rules, changes))
}

/// An error and what caused it, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
