//! NATS JetStream: messages pulled a thousand at a time, what comes of them published with many acknowledgements under way, then the last one acknowledged,
//! and with it those before.

use anyhow::{Context as _, Result};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, AckKind, Context, stream};
use futures::StreamExt;

use crate::jobs::Job;

const BATCH: usize = 1000;
const KEY: &str = "k";

pub(crate) struct Broker {
    context: Context,
}

impl Broker {
    pub(crate) async fn new(port: &str) -> Result<Self> {
        let client = async_nats::connect(format!("127.0.0.1:{port}")).await?;
        Ok(Self { context: jetstream::new(client) })
    }

    async fn stream(&self, name: &str) -> Result<stream::Stream> {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![name.to_owned()],
            storage: stream::StorageType::File,
            ..stream::Config::default()
        };
        Ok(self.context.create_stream(config).await?)
    }

    async fn publish(&self, subject: &str, events: Vec<(Vec<u8>, Vec<u8>)>) -> Result<()> {
        let mut under_way = Vec::with_capacity(events.len());
        for (key, value) in events {
            let acknowledged = if key.is_empty() {
                self.context.publish(subject.to_owned(), value.into()).await?
            } else {
                let mut headers = HeaderMap::new();
                headers.insert(KEY, String::from_utf8_lossy(&key).as_ref());
                self.context.publish_with_headers(subject.to_owned(), headers, value.into()).await?
            };
            under_way.push(acknowledged);
        }
        for acknowledged in under_way {
            acknowledged.await?;
        }
        Ok(())
    }

    pub(crate) async fn fill(&self, job: &str, events: &[(String, String)]) -> Result<()> {
        self.stream(job).await?;
        for events in events.chunks(BATCH) {
            let bytes = |(key, value): &(String, String)| (key.clone().into_bytes(), value.clone().into_bytes());
            self.publish(job, events.iter().map(bytes).collect()).await?;
        }
        Ok(())
    }

    pub(crate) async fn run(&self, name: &str, run: usize) -> Result<u64> {
        let out = format!("out-{name}-{run}");
        self.stream(&out).await?;
        let mut input = self.context.get_stream(name).await?;
        let mut left = input.info().await?.state.messages;
        let consumer = input
            .create_consumer(pull::Config {
                durable_name: Some(format!("run-{run}")),
                deliver_policy: DeliverPolicy::All,
                ack_policy: AckPolicy::All,
                max_ack_pending: -1,
                ..pull::Config::default()
            })
            .await?;
        let (mut job, mut outputs) = (Job::new(name), 0);
        while left > 0 {
            let mut messages = consumer.fetch().max_messages(BATCH).messages().await?;
            let (mut made, mut last) = (Vec::new(), None);
            while let Some(message) = messages.next().await {
                let message = message.map_err(|error| anyhow::anyhow!("{error}"))?;
                let key = message.headers.as_ref().and_then(|headers| headers.get(KEY)).map(|key| key.as_str().to_owned());
                made.extend(job.process(key.unwrap_or_default().as_bytes(), &message.payload)?);
                left -= 1;
                last = Some(message);
            }
            outputs += made.len() as u64;
            self.publish(&out, made).await?;
            let last = last.context("the stream ends early")?;
            last.ack_with(AckKind::Ack).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        self.context.delete_stream(&out).await?;
        input.delete_consumer(&format!("run-{run}")).await?;
        Ok(outputs)
    }
}
