"""openai-whisper's tokenizer, set to Korean."""

from whisper.tokenizer import Tokenizer, get_tokenizer

N_VOCAB = 51_865  # tokens of Whisper's multilingual vocabulary with 99 languages: tiny to large-v2
N_TEXT_CTX = 448  # Whisper's text positions, prompt and end-of-text included


def korean_tokenizer() -> Tokenizer:
    """Return openai-whisper's multilingual tokenizer set to Korean transcription."""
    return get_tokenizer(multilingual=True, num_languages=99, language="ko", task="transcribe")
