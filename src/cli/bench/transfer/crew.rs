//! Rank 0's side: a connection to each other rank, commands out, replies in.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::command::{Command, Holder, Lane, Reply, Sample, append, read};
use crate::security::Credentials;
use crate::transport::tcp::{Connection, Listener, Reach, hello};
use crate::wire::handshake::Role;
use crate::wire::peer::HostKey;

/// How long the ranks may take to come.
const COME_MAX: Duration = Duration::from_secs(30);
/// How long a command may take.
const REPLY_MAX: Duration = Duration::from_secs(120);

/// Where the ranks come to.
pub(super) struct Door {
    runtime: Runtime,
    listener: Listener,
    member: Credentials,
}

/// The ranks.
pub(super) struct Crew {
    members: Vec<Member>,
    /// How many of those between the two ends were made to die, the first ones.
    lost: usize,
}

struct Member {
    connection: Connection,
    holder: Holder,
    has_mpi: bool,
    host: Option<HostKey>,
}

/// One of the two ranks that take part in transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Rank 1.
    Near,
    /// The last.
    Far,
}

impl Door {
    /// What the other ranks need to come here.
    pub(super) fn card(&self) -> (&str, &Credentials) {
        (self.listener.address(), &self.member)
    }

    /// Waits for the other ranks, has `work` done with them, and sends them away. Its result, and whether all lived.
    pub(super) fn run(
        mut self,
        size: u32,
        work: impl AsyncFnOnce(&mut Crew) -> anyhow::Result<i32>,
    ) -> anyhow::Result<(i32, bool)> {
        self.runtime.block_on(async {
            let mut members = Vec::new();
            for _ in 1..size {
                let connection = timeout(COME_MAX, self.listener.accept()).await;
                members.push(Member::greet(connection.context("a rank did not come")?).await?);
            }
            members.sort_by_key(|member| member.holder.rank);
            let mut crew = Crew { members, lost: 0 };
            let done = work(&mut crew).await;
            let all_there = crew.lost == 0;
            for member in &mut crew.members {
                // One that is gone needs no farewell.
                let _ = member.tell(&Command::End { all_there }).await;
            }
            done.map(|code| (code, all_there))
        })
    }
}

impl Crew {
    pub(super) fn open_door() -> anyhow::Result<Door> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let member = Credentials::generate()?.member;
        let reach = Reach::network();
        let listener = runtime.block_on(Listener::bind(&reach, 0, &member, hello(Role::Peer, None)))?;
        Ok(Door { runtime, listener, member })
    }

    /// The lanes that there are between the two ends.
    pub(super) fn lanes(&self) -> Vec<Lane> {
        let has = |lane: &Lane| match lane {
            Lane::Tcp => true,
            Lane::Mpi => self.has_mpi(),
            Lane::Shm => {
                let (near, far) = (self.member(End::Near).host, self.member(End::Far).host);
                near.is_some() && near == far
            }
        };
        Lane::ALL.into_iter().filter(has).collect()
    }

    pub(super) fn has_mpi(&self) -> bool {
        self.member(End::Near).has_mpi && self.member(End::Far).has_mpi
    }

    /// How an end is found.
    pub(super) fn holder(&self, end: End) -> Holder {
        self.member(end).holder.clone()
    }

    pub(super) async fn hold(&mut self, end: End, sample: &Sample) -> anyhow::Result<()> {
        self.ask(end, &Command::Hold(sample.clone())).await.map(drop)
    }

    pub(super) async fn drop_value(&mut self, end: End, sample: &Sample) -> anyhow::Result<()> {
        self.ask(end, &Command::Drop { task: sample.task }).await.map(drop)
    }

    /// Has one end do something.
    pub(super) async fn ask(&mut self, end: End, command: &Command) -> anyhow::Result<Reply> {
        let member = self.member_mut(end);
        member.tell(command).await?;
        member.hear().await
    }

    /// Has both ends do something at the same time.
    pub(super) async fn ask_both(&mut self, near: &Command, far: &Command) -> anyhow::Result<(Reply, Reply)> {
        self.member_mut(End::Near).tell(near).await?;
        self.member_mut(End::Far).tell(far).await?;
        let near = self.member_mut(End::Near).hear().await;
        // (Both are heard, so that the next reply is that to the next command.)
        let far = self.member_mut(End::Far).hear().await;
        Ok((near?, far?))
    }

    /// How many ranks there are between the two ends.
    pub(super) fn victims(&self) -> usize {
        self.members.len() - 2
    }

    /// Has the near end fetch a value from one of the ranks between, which dies so long after that.
    pub(super) async fn lose_one(
        &mut self,
        sample: &Sample,
        lane: Lane,
        after: Duration,
    ) -> anyhow::Result<()> {
        self.lost += 1;
        let victim = &mut self.members[self.lost];
        victim.tell(&Command::Hold(sample.clone())).await?;
        victim.hear().await?;
        let holder = victim.holder.clone();
        let fetch = Command::FetchFromDying { sample: sample.clone(), holder, lane };
        self.member_mut(End::Near).tell(&fetch).await?;
        tokio::time::sleep(after).await;
        self.members[self.lost].tell(&Command::Die).await?;
        self.member_mut(End::Near).hear().await.map(drop)
    }

    fn member(&self, end: End) -> &Member {
        match end {
            End::Near => &self.members[0],
            End::Far => &self.members[self.members.len() - 1],
        }
    }

    fn member_mut(&mut self, end: End) -> &mut Member {
        match end {
            End::Near => &mut self.members[0],
            End::Far => self.members.last_mut().expect("there are three ranks"),
        }
    }
}

impl Member {
    async fn greet(mut connection: Connection) -> anyhow::Result<Self> {
        let frame = timeout(COME_MAX, connection.halves().0.frame()).await??;
        match read(&frame.context("a rank left at once")?)? {
            Reply::Ready { holder, has_mpi, host } => Ok(Self { connection, holder, has_mpi, host }),
            other => bail!("a rank began with {other:?}"),
        }
    }

    async fn tell(&mut self, command: &Command) -> anyhow::Result<()> {
        let mut frames = Vec::new();
        append(command, &mut frames)?;
        Ok(self.connection.halves().1.write_all(&mut frames).await?)
    }

    async fn hear(&mut self) -> anyhow::Result<Reply> {
        let rank = self.holder.rank;
        let frame = timeout(REPLY_MAX, self.connection.halves().0.frame()).await;
        let frame =
            frame.with_context(|| format!("rank {rank} did not answer in {} s", REPLY_MAX.as_secs()))??;
        match read(&frame.with_context(|| format!("rank {rank} is gone"))?)? {
            Reply::Failed(reason) => Err(anyhow!("rank {rank}: {reason}")),
            reply => Ok(reply),
        }
    }
}
