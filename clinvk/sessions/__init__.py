"""Operations on sessions, independent of the store."""
