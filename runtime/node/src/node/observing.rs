//! How a node and its pipelines stand, and stood.

use std::sync::{MutexGuard, PoisonError};

use sluice_engine::{Halt, LastError, Work};
use sluice_log::{Desired, Error};

use super::{LaneWork, Node};
use crate::history::{self, Histories, History};
use crate::lanes::Running;
use crate::status::{self, ErrorStatus, LaneStatus, PipelineState, PipelineStatus, Status};

impl Node {
    /// What a pipeline did in the last hour.
    ///
    /// # Errors
    /// When there is no such pipeline.
    pub fn history(&self, pipeline: &str) -> Result<History, Error> {
        self.log.pipeline(pipeline).ok_or_else(|| Error::UnknownPipeline(pipeline.to_owned()))?;
        Ok(self.histories().of(pipeline))
    }

    fn histories(&self) -> MutexGuard<'_, Histories> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how pipelines stand, for [`history`](Self::history); to be called every [`EVERY`](crate::HISTORY_EVERY).
    pub fn note_history(&self) {
        let all = self.running().iter().map(|running| self.now(running)).collect();
        self.histories().note((self.clock.now(), self.clock.elapsed()), all);
    }

    fn now(&self, running: &Running) -> history::Now {
        let mut now = history::Now { name: running.name.clone(), work: self.work_of(running), lag: 0, lag_ms: 0 };
        for (tp, _) in &running.lanes {
            let cursor = self.log.cursor(running.id, *tp).map(|(_, cursor)| cursor);
            let Some((cursor, partition)) = cursor.zip(self.log.partition_of(*tp)) else { continue };
            now.lag += partition.high_watermark().saturating_sub(cursor);
            now.lag_ms = now.lag_ms.max(status::waits(&partition, cursor).unwrap_or(0));
        }
        now
    }

    /// What all lanes of a pipeline have done since the node started.
    fn work_of(&self, running: &Running) -> Work {
        let mut work = Work::default();
        let lanes = running.each_lane().into_iter().filter_map(|lane| self.scheduler.seen(lane));
        lanes.for_each(|seen| work.add(&seen.state.work));
        work
    }

    /// What each lane has done since the node started.
    pub fn work(&self) -> Vec<LaneWork> {
        let topics = self.log.topics();
        let name = |id| topics.iter().find(|topic| topic.id == id).map(|topic| topic.name.clone()).unwrap_or_default();
        let mut all = Vec::new();
        for running in self.running().iter() {
            for lane in running.each_lane() {
                let tp = running.lanes.iter().find(|(_, own)| *own == lane).map(|(tp, _)| *tp).unwrap_or_default();
                let Some(seen) = self.scheduler.seen(lane) else { continue };
                let (pipeline, topic) = (running.name.clone(), name(tp.topic));
                let (work, memory) = (seen.state.work, seen.state.memory);
                all.push(LaneWork { pipeline, topic, partition: tp.partition, work, memory });
            }
        }
        all
    }

    /// How the node stands.
    pub fn status(&self) -> Status {
        let mut status = status::of(&self.log);
        status.pid = Some(std::process::id());
        status.refused = self.reloads.strays();
        for running in self.running().iter() {
            if let Some(pipeline) = status.pipelines.iter_mut().find(|pipeline| pipeline.name == running.name) {
                self.observe(running, pipeline);
            }
        }
        status.pipelines.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }

    /// Adds what only the node that runs a pipeline knows of it.
    fn observe(&self, running: &Running, status: &mut PipelineStatus) {
        let (mut waiting, mut paused, work) = (false, true, self.work_of(running));
        (status.failed_calls, status.written) = (work.failed_calls(), work.outputs);
        status.rates = self.histories().rates(&running.name);
        status.last_errors = self.last_errors(running, status);
        status.reload = self.reloads.status(&running.name);
        let place = |part: &LaneStatus| format!("{}/{}", part.topic, part.partition);
        let places: Vec<_> = running.lanes.iter().zip(&status.partitions).map(|((tp, _), p)| (*tp, place(p))).collect();
        for (partition, (tp, lane)) in status.partitions.iter_mut().zip(&running.lanes) {
            let Some(seen) = self.scheduler.seen(*lane) else { continue };
            let elsewhere = seen.state.at.filter(|at| at != tp);
            let elsewhere = elsewhere.and_then(|at| places.iter().find(|(tp, _)| *tp == at));
            partition.halted = seen.state.halt.map(|halt| match elsewhere {
                // Of several topics none goes on without the others.
                Some((_, at)) => {
                    Halt { offset: partition.cursor, reason: format!("waits for {at}: {}", halt.reason), ..halt }
                }
                None => halt,
            });
            partition.retrying = seen.state.retrying.filter(|_| elsewhere.is_none());
            partition.waits_for = seen.state.waits_for;
            partition.timers_due = seen.state.timers_due;
            partition.paused = seen.paused && seen.at_rest && seen.state.settled;
            if let Some(state) = self.states.running(running.id, tp.partition) {
                let state = state.lock();
                (partition.watermark, partition.late) = (state.applied().watermark, Some(state.applied().late));
            }
            waiting |= partition.waits_for.is_some();
            paused &= partition.paused;
        }
        status.state = match status.desired {
            _ if status.held.is_some() => PipelineState::Held,
            _ if status.partitions.iter().any(|partition| partition.halted.is_some()) => PipelineState::Halted,
            Desired::Pause | Desired::Drain if paused => PipelineState::Paused,
            Desired::Pause => PipelineState::Pausing,
            Desired::Drain => PipelineState::Draining,
            Desired::Run if waiting => PipelineState::Waiting,
            Desired::Run if status.lag > 0 => PipelineState::Running,
            Desired::Run => PipelineState::Idle,
        };
    }

    /// What failed last in all lanes of a pipeline, the newest first.
    fn last_errors(&self, running: &Running, status: &PipelineStatus) -> Vec<ErrorStatus> {
        /// So many are told.
        const MOST: usize = 10;
        let seen = running.each_lane().into_iter().filter_map(|lane| self.scheduler.seen(lane));
        let mut errors: Vec<_> = seen.flat_map(|seen| seen.state.last_errors.to_vec()).collect();
        errors.sort_by_key(|error| std::cmp::Reverse((error.time, error.offset)));
        let topic = |source| {
            let mut places = running.lanes.iter().zip(&status.partitions);
            places.find(|((tp, _), _)| *tp == source).map(|(_, partition)| partition.topic.clone())
        };
        let told = errors.into_iter().take(MOST).map(|LastError { time, source, offset, reason, fate }| {
            let topic = topic(source).unwrap_or_default();
            ErrorStatus { time, topic, partition: source.partition, offset, reason, fate }
        });
        told.collect()
    }
}
