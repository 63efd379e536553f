"""What `t5gemma2 benchmark` measures, in processes of their own, and how it is shown."""
