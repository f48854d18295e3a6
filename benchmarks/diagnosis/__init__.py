"""Is the diagnosis true? Real trainings, sick and healthy, and what the rules of `lightning_adapt.health` say."""
