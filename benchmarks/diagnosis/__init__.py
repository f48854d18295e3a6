"""Is the diagnosis true? Real trainings, sick and healthy, and what the rules of health say of them."""
