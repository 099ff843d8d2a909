//! What stands in for an engine on a host that cannot run jobs: the node still joins the group and answers requests.

use async_trait::async_trait;

use workrs_core::{image::Image, manifest::RestoreNeeds};

use crate::engine::{Capabilities, Container, ContainerSpec, Engine, EngineError, LayerSource, Origin};

/// Runs nothing, and says why.
#[derive(Debug, Clone)]
pub struct AbsentEngine {
    reason: String,
}

impl AbsentEngine {
    /// The host cannot run jobs for this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

#[async_trait]
impl Engine for AbsentEngine {
    fn name(&self) -> &'static str {
        "none"
    }

    fn format(&self) -> u32 {
        0
    }

    async fn capabilities(&self) -> Capabilities {
        Capabilities { run: Err(self.reason.clone()), dump: Err(self.reason.clone()) }
    }

    async fn disk_capacity(&self) -> u64 {
        0
    }

    async fn sweep(&self) -> Result<Vec<String>, EngineError> {
        Ok(Vec::new())
    }

    async fn provide(&self, _: &Image, _: &dyn LayerSource) -> Result<(), EngineError> {
        Err(EngineError::Host(self.reason.clone()))
    }

    async fn check(&self, _: &ContainerSpec, _: &RestoreNeeds) -> Result<(), EngineError> {
        Err(EngineError::Host(self.reason.clone()))
    }

    async fn prepare(&self, _: &ContainerSpec, _: Origin) -> Result<Box<dyn Container>, EngineError> {
        Err(EngineError::Host(self.reason.clone()))
    }
}
