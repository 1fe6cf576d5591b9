//! Building a read model anew: beside the old one, which serves meanwhile, then swapped in one transaction.
//!
//! The new tables have a checkpoint of their own, kept with their rows as any other, so a rebuild that was cut off
//! goes on where it was.

use steadfast::store::{Db, Error, Reader};

use crate::{
    checkpoint::{self, Checkpoint},
    lane::{Lane, apply_alone},
    log::Log,
    models,
    projection::{Names, Projection},
    schema,
};

/// Rebuilds the projection of this name. `progress` hears how many events have been applied.
pub async fn rebuild(db: &Db, reader: &Reader, name: &str, progress: impl FnMut(u64)) -> Result<u64, Error> {
    let projection = models::by_name(name)?;
    schema::create_tables(db).await?;
    build(db, reader, projection, progress).await
}

async fn build(
    db: &Db,
    reader: &Reader,
    projection: &'static dyn Projection,
    mut progress: impl FnMut(u64),
) -> Result<u64, Error> {
    let mut log = Log::new(reader.clone());
    let mut lane = Lane::new(projection, Names::New, schema::open_build(db, projection).await?);
    let mut applied = 0;
    loop {
        let page = log.page(lane.position).await?;
        tokio::join!(apply_alone(db, &mut lane, &page.entries), log.read_ahead(page.next())).0?;
        if let Some((reason, _)) = lane.trouble() {
            return Err(Error::Refused(reason.into()));
        }
        if let Some(broken) = page.broken {
            return Err(broken.error);
        }
        applied += page.entries.len() as u64;
        progress(applied);
        if !page.full {
            break;
        }
    }
    swap_in(db, &mut log, &mut lane).await?;
    Ok(applied)
}

/// Puts what was built in the place of what serves. The live projector is locked out meanwhile, and what it has
/// applied and we have not is applied first, so that readers never see time run backwards.
pub async fn swap_in(db: &Db, log: &mut Log, lane: &mut Lane) -> Result<(), Error> {
    let projection = lane.projection;
    let (live, new) = (Names::Live.of(projection.name()), Names::New.of(projection.name()));
    let mut tx = db.begin().await?;
    let serving = checkpoint::lock(&mut tx, &live).await?;
    let built = checkpoint::lock(&mut tx, &new).await?;
    let Some(built) = built.filter(|built| built.version == projection.version()) else {
        // Someone else built and swapped it: follow the tables that serve.
        tx.rollback().await?;
        let position = serving.map_or(lane.position, |serving| serving.position);
        *lane = Lane::new(projection, Names::Live, position);
        return Ok(());
    };
    let mut position = built.position;
    while serving.is_some_and(|serving| position < serving.position) {
        let page = log.page(position).await?;
        if let Some(broken) = page.broken {
            return Err(broken.error);
        }
        // The checkpoint that serves lies behind the end of the log: the log was cut. What is there is all there is.
        let Some(end) = page.end() else { break };
        projection.apply(&mut tx, Names::New, &page.entries).await?;
        position = end;
    }
    schema::swap(&mut tx, projection.tables()).await?;
    checkpoint::put(
        &mut tx,
        &live,
        Checkpoint {
            version: projection.version(),
            position,
        },
    )
    .await?;
    checkpoint::remove(&mut tx, &new).await?;
    tx.commit().await?;
    *lane = Lane::new(projection, Names::Live, position);
    Ok(())
}
