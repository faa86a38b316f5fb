//! One task's life: phases, flows joined, retries, shutdown.
