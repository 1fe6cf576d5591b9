//! `cqrs-es` as the seam: the run is one of its aggregates, so its test framework and tools work on it.

use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};

use super::{Command, Event, Refusal, Run, decide};

impl DomainEvent for Event {
    fn event_type(&self) -> String {
        self.name().into()
    }

    fn event_version(&self) -> String {
        self.schema().to_string()
    }
}

impl Aggregate for Run {
    const TYPE: &'static str = "run";
    type Command = Command;
    type Event = Event;
    type Error = Refusal;
    type Services = ();

    async fn handle(&mut self, command: Command, (): &(), sink: &EventSink<Self>) -> Result<(), Refusal> {
        for event in decide(self, command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: Event) {
        *self = std::mem::take(self).evolve(&event);
    }
}
